//! Backends that must never be asked: refused when they are written, and unusable if they were there before.

use obleth_upstream::Options;
use serde_json::json;

use super::{
    process::Setup,
    refusal::assert_refused,
    world::{Canned, ENDPOINTS, World, body_of},
};

/// A gateway that refuses private backends, and one in the same folder before it that did not.
fn blocking() -> Setup {
    Setup::new().env("OBLETH_BLOCK_PRIVATE_NETWORKS", true)
}

#[test]
fn a_backend_at_a_forbidden_address_is_refused_by_name_with_the_remedy() {
    let refused = |setup: Setup, base: &str| {
        let gateway = setup.start();
        let answer = gateway.post("/models", json!({"model_name": "m", "api_base": base}));
        let list = json!({"model_name": "m", "endpoints": [{"name": "a", "api_base": base}]});
        let listed = gateway.post("/models", list).json()["error"]["param"].clone();
        assert_eq!((answer.status, listed.as_str()), (400, Some("endpoints[0].api_base")), "{base}");
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], "api_base");
        error["message"].as_str().unwrap().to_owned()
    };
    for base in
        ["http://169.254.169.254", "https://[::ffff:169.254.169.254]/v1", "http://[64:ff9b::a9fe:a9fe]"]
    {
        assert!(refused(Setup::new(), base).contains("never used"), "{base}");
    }
    assert!(refused(Setup::new(), "http://2852039166/").contains("notation"));
    for base in ["http://10.0.0.1:8000", "https://[::1]", "http://localhost:8000"] {
        assert!(refused(blocking(), base).contains("OBLETH_BLOCK_PRIVATE_NETWORKS"), "{base}");
    }
}

#[test]
fn a_private_backend_from_before_is_not_asked_once_they_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let World { sim, gateway, secret, .. } =
        World::with(Setup::new().data_dir(folder.path()), Options::default());
    let named = format!("http://localhost:{}", sim.addr.port());
    let made = gateway.post("/models", json!({"model_name": "named", "api_base": named}));
    assert_eq!(made.status, 201);
    assert!(gateway.stop().success());
    let gateway = blocking().data_dir(folder.path()).start();
    for model in [super::world::MODEL, "named"] {
        let request = super::http::Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], model, "")).key(&secret);
        let answer = request.to(gateway.data);
        assert!(
            matches!(answer.code().as_str(), "no_healthy_upstream" | "upstream_unreachable"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(sim.counters.stats().connections, 0);
    let log = gateway.stderr();
    assert_eq!(log.matches("it is not used").count(), 1, "{log}");
    assert_eq!(log.matches("the backend is not used").count(), 1, "{log}");
}

#[test]
fn a_redirect_is_a_failure_and_never_followed() {
    let world = World::start();
    let elsewhere = obleth_upstream::spawn(Options::default()).unwrap();
    let answer = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n",
        elsewhere.addr
    );
    let redirecting = Canned::start(answer.leak());
    world.new_model("moved", json!({"api_base": format!("http://{}", redirecting.addr)}));
    let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "moved", "")));
    assert_refused(&answer, "upstream_error");
    assert_eq!((answer.header("location"), elsewhere.counters.stats().connections), (None, 0));
}
