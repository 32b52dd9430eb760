//! From where a key may be used: the connection's address, or what trusted proxies say, and never the client's word.

use serde_json::{Value, json};

use super::{
    http::Request,
    process::{Driver, Setup},
    refusal::assert_refused,
    world::{ENDPOINTS, World, chat},
};

/// Restricts the key, and says what comes of a request with these `X-Forwarded-For` lines: a status of 200 is "".
fn outcome(world: &World, allowed: &Value, lines: &[&str]) -> String {
    world.gateway.patch(&format!("/keys/{}", world.key_id), json!({"allowed_ips": allowed}));
    let with_lines = |request: Request| {
        lines.iter().fold(request, |request, line| request.header("X-Forwarded-For", line))
    };
    let chat = world.ask(&with_lines(world.chat("")));
    let list = world.ask(&with_lines(Request::get("/v1/models").key(&world.secret)));
    assert_eq!(chat.status, list.status, "the gate stands before every endpoint");
    match chat.status {
        200 => String::new(),
        _ => chat.code(),
    }
}

#[test]
fn without_trusted_proxies_only_the_connection_counts() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let world = World::with(Setup::new().driver(driver), obleth_upstream::Options::default());
        for (allowed, lines, code) in [
            (json!(null), &[][..], ""),
            (json!(["127.0.0.1"]), &[], ""),
            (json!(["::1", "127.0.0.0/8"]), &["10.0.0.1"], ""),
            (json!([]), &[], "ip_not_allowed"),
            (json!(["10.0.0.0/8"]), &[], "ip_not_allowed"),
            (json!(["10.0.0.0/8"]), &["10.0.0.1"], "ip_not_allowed"),
            (json!(["10.0.0.0/8"]), &["10.0.0.1, 127.0.0.1", "10.0.0.1"], "ip_not_allowed"),
            (json!(["::/0"]), &["::1"], "ip_not_allowed"),
        ] {
            assert_eq!(outcome(&world, &allowed, lines), code, "{allowed} {lines:?}");
        }
        let refused = world.ask(&world.chat("").header("Forwarded", "for=10.0.0.1"));
        assert_refused(&refused, "ip_not_allowed");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        world.gateway.put(&format!("/keys/{}/disabled", world.key_id), json!({"disabled": true}));
        assert_refused(&world.ask(&world.chat("")), "key_disabled");
        assert_refused(
            &world.ask(&Request::post(ENDPOINTS[0], chat("")).key("sk_unknown")),
            "invalid_api_key",
        );
    }
}

#[test]
fn behind_trusted_proxies_the_first_stranger_from_the_right_is_the_client() {
    let setup = Setup::new().env("OBLETH_TRUSTED_PROXIES", "127.0.0.1, 192.0.2.0/24");
    let world = World::with(setup, obleth_upstream::Options::default());
    let allowed = json!(["203.0.113.0/24", "2001:db8::/32"]);
    for (lines, code) in [
        (&["203.0.113.7"][..], ""),
        (&["203.0.113.7:50123"], ""),
        (&["[2001:db8::7]:443"], ""),
        (&["::ffff:203.0.113.7"], ""),
        (&["203.0.113.7, 192.0.2.1"], ""),
        (&["198.51.100.1, 203.0.113.7", "192.0.2.1,192.0.2.2"], ""),
        (&[], "ip_not_allowed"),
        (&["198.51.100.1"], "ip_not_allowed"),
        (&["203.0.113.7, 198.51.100.1"], "ip_not_allowed"),
        (&["203.0.113.7", "198.51.100.1"], "ip_not_allowed"),
        (&["203.0.113.7, garbage"], "ip_not_allowed"),
        (&["203.0.113.7, 192.0.2.1, 203.0.113"], "ip_not_allowed"),
        (&["127.0.0.1"], "ip_not_allowed"),
    ] {
        assert_eq!(outcome(&world, &allowed, lines), code, "{lines:?}");
    }
    let hidden =
        world.chat("").header("X-Forwarded-For", "198.51.100.1").header("Connection", "x-forwarded-for");
    let own = json!({"allowed_ips": ["127.0.0.1"]});
    world.gateway.patch(&format!("/keys/{}", world.key_id), own);
    assert_refused(&world.ask(&hidden), "ip_not_allowed");
}

#[test]
fn a_tenants_list_holds_for_all_its_keys_and_both_must_allow() {
    let world = World::start();
    let tenant = format!("/tenants/{}", world.tenant_id);
    let (_, second) = world.new_key(json!({"name": "second", "allowed_ips": ["127.0.0.1"]}));
    let second = Request::post(ENDPOINTS[0], chat("")).key(&second);
    for (allowed, code) in
        [(json!(["10.0.0.0/8"]), "ip_not_allowed"), (json!(["127.0.0.0/8"]), ""), (json!(null), "")]
    {
        world.gateway.patch(&tenant, json!({"allowed_ips": allowed}));
        for request in [&world.chat(""), &second] {
            match code {
                "" => assert_eq!(world.ask(request).status, 200),
                code => assert_refused(&world.ask(request), code),
            }
        }
    }
}

#[test]
fn what_the_proxies_said_goes_on_to_the_backend_as_it_came() {
    let world = World::start();
    let lines = "198.51.100.1, garbage";
    assert_eq!(world.ask(&world.chat("").header("X-Forwarded-For", lines)).status, 200);
    let head = String::from_utf8(world.sim.counters.last_request().head).unwrap();
    assert!(head.contains(&format!("X-Forwarded-For: {lines}\r\n")), "{head}");
}
