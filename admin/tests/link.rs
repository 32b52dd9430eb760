//! What the shards are told, and when: always before the admin API answers.

mod running;

use std::{collections::HashMap, io::Write};

use obleth_link::{Command, Event};
use obleth_policy::{
    id::GroupIx,
    key::{KeyAnswer, KeyDigest},
    outcome::Code,
    snapshot::{ModelGrant, Snapshot, TenantStatus},
    unit::LimitMs,
};
use running::{Running, Shard};

/// The snapshot that the shard was sent last; nothing waits.
fn newest(shard: &Shard) -> std::sync::Arc<Snapshot> {
    let sent = std::iter::from_fn(|| shard.0.take());
    let snapshots =
        sent.filter_map(|command| if let Command::Snapshot(s) = command { Some(s) } else { None });
    snapshots.last().expect("no snapshot was sent")
}

#[test]
fn a_revocation_is_on_its_way_to_every_shard_before_the_answer_leaves() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (id, secret) = sidecar.key(&tenant, "ci");
    let digest = KeyDigest::of(secret.as_bytes(), None);
    let changes = [
        ("PUT", format!("/keys/{id}/disabled"), r#"{"disabled":true}"#),
        ("PUT", format!("/keys/{id}/allowlist"), r#"{"allowed_models":[]}"#),
        ("PATCH", format!("/keys/{id}"), r#"{"expires_at":"2020-01-01T00:00:00Z"}"#),
        ("DELETE", format!("/keys/{id}"), ""),
    ];
    for (method, path, body) in changes {
        sidecar.hush();
        sidecar.expect(200, (method, &path), body);
        for shard in &sidecar.shards {
            let told = shard.0.take();
            assert!(
                matches!(told, Some(Command::KeyChanged(of)) if of == digest),
                "{method} {path}: {told:?}"
            );
        }
    }
    let KeyAnswer::Found(key) = sidecar.shards[1].look_up(&secret) else { panic!("a deleted key is known") };
    assert!(key.deleted && key.disabled);
    assert_eq!(
        obleth_policy::key::judge(&key, None, obleth_policy::unit::UnixMs(0), || None),
        Err(Code::KeyDeleted)
    );
}

#[test]
fn what_a_client_that_left_has_changed_is_told_all_the_same() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (id, _) = sidecar.key(&tenant, "ci");
    sidecar.hush();
    let path = format!("/keys/{id}/disabled");
    for disabled in [true, false].repeat(100) {
        let body = format!(r#"{{"disabled":{disabled}}}"#);
        let head =
            format!("PUT /api/v1{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n", running::TOKEN);
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = std::net::TcpStream::connect(sidecar.admin).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        drop(stream);
    }
    // The store works in order: when this change is done, those before it are, or never will be.
    sidecar.expect(200, ("PUT", &path), r#"{"disabled":true}"#);
    let sql = "SELECT count(*) FROM audit WHERE action = 'key.disabled'";
    let done: usize = sidecar.outside().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as usize;
    for shard in &sidecar.shards {
        let told = (0..done).filter(|_| matches!(shard.next(), Command::KeyChanged(_))).count();
        assert_eq!(told, done);
    }
}

#[test]
fn a_look_up_answers_what_the_store_says() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let body = r#"{"name":"ci","allowed_models":["a"],"expires_at":"2030-01-01T00:00:00Z"}"#;
    let made = sidecar.expect(201, ("POST", &format!("/tenants/{tenant}/keys")), body);
    let KeyAnswer::Found(key) = sidecar.shards[0].look_up(made["secret"].as_str().unwrap()) else {
        panic!("the key is there")
    };
    assert_eq!(key.id.to_string(), made["id"].as_str().unwrap());
    assert_eq!(key.tenant.to_string(), tenant);
    assert_eq!(key.expires_at.unwrap().0, 1_893_456_000_000);
    assert_eq!(key.grant, ModelGrant::Only(["a".into()].into()));
    assert!(!key.disabled && !key.deleted);
    assert_eq!(sidecar.shards[1].look_up("sk_unknown"), KeyAnswer::Unknown);
}

#[test]
fn digests_are_peppered_where_there_is_a_pepper() {
    let pepper = obleth_policy::key::Pepper::new(b"pepper");
    let own = pepper.clone();
    let sidecar = Running::start_with(|settings| settings.pepper = Some(own));
    let (_, secret) = sidecar.key(&sidecar.tenant("acme"), "ci");
    assert_eq!(sidecar.shards[0].look_up(&secret), KeyAnswer::Unknown, "the plain digest");
    let digest = KeyDigest::of(secret.as_bytes(), Some(&pepper));
    sidecar.shards[0].0.tell(Event::KeyLookup(digest)).unwrap();
    assert!(matches!(sidecar.shards[0].next(), Command::KeyAnswer(_, KeyAnswer::Found(_))));
}

#[test]
fn a_new_key_ends_the_belief_that_it_does_not_exist() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    sidecar.hush();
    let (_, secret) = sidecar.key(&tenant, "ci");
    let digest = KeyDigest::of(secret.as_bytes(), None);
    for shard in &sidecar.shards {
        assert!(matches!(shard.0.take(), Some(Command::KeyChanged(of)) if of == digest));
    }
}

#[test]
fn a_shard_that_believes_its_commands_never_ends_up_with_an_old_key() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (id, secret) = sidecar.key(&tenant, "ci");
    let digest = KeyDigest::of(secret.as_bytes(), None);
    let shard = sidecar.shards[0].clone();
    // A shard as simple as can be: it asks whenever it knows nothing, and believes what it is told last.
    let mut cache: HashMap<KeyDigest, bool> = HashMap::new();
    let mut answers = 0;
    shard.0.tell(Event::KeyLookup(digest)).unwrap();
    let mut apply = |command: Command, cache: &mut HashMap<KeyDigest, bool>| match command {
        Command::KeyAnswer(of, KeyAnswer::Found(key)) => {
            answers += 1;
            cache.insert(of, key.disabled);
        }
        Command::KeyChanged(of) => {
            cache.remove(&of);
            shard.0.tell(Event::KeyLookup(digest)).unwrap();
        }
        _ => {}
    };
    for round in 0..200 {
        let disabled = round % 2 == 0;
        let body = format!(r#"{{"disabled":{disabled}}}"#);
        sidecar.expect(200, ("PUT", &format!("/keys/{id}/disabled")), &body);
        while let Some(command) = shard.0.take() {
            apply(command, &mut cache);
        }
        // Whatever it believes after the answer, it is not what was before the edit.
        assert!(cache.get(&digest).is_none_or(|believed| *believed == disabled), "round {round}");
    }
    while cache.is_empty() {
        apply(shard.next(), &mut cache);
    }
    assert!(!cache[&digest], "the last edit enabled it");
    assert!(answers > 0);
}

#[test]
fn a_snapshot_holds_what_operators_wrote_and_is_sent_before_the_answer() {
    let sidecar = Running::start();
    let tenant = sidecar.expect(
        201,
        ("POST", "/tenants"),
        r#"{"name":"acme","weight":7,"status":"suspended","allowed_models":["m"]}"#,
    );
    let body = r#"{"model_name":"m","aliases":["x"],"upstream_model":"u","api_base":"http://127.0.0.1:8000/base",
                   "api_key":"sk-up","max_model_len":100,"timeouts":{"total_ms":9}}"#;
    let made = sidecar.expect(201, ("POST", "/models"), body);
    let snapshot = newest(&sidecar.shards[0]);
    assert_eq!(newest(&sidecar.shards[1]).generation, snapshot.generation);
    let model = snapshot.model("x").unwrap();
    assert_eq!(model.id.to_string(), made["id"].as_str().unwrap());
    assert_eq!((&*model.name, model.upstream_model.as_deref()), ("m", Some("u")));
    assert_eq!((model.max_in_flight, model.max_model_len), (32, Some(100)));
    assert_eq!((model.timers.connect, model.timers.total), (LimitMs(2000), LimitMs(9)));
    let endpoint = &model.endpoints[0];
    assert_eq!((&*endpoint.authority, &*endpoint.base_path), ("127.0.0.1:8000", "/base/v1"));
    assert_eq!(*endpoint.addresses, ["127.0.0.1:8000".parse().unwrap()]);
    assert_eq!(endpoint.credential.as_ref().unwrap().expose(), "sk-up");
    let id = obleth_policy::id::TenantId(tenant["id"].as_str().unwrap().parse().unwrap());
    let tenant = snapshot.tenant(id).unwrap();
    assert_eq!((&*tenant.name, tenant.weight, tenant.group), ("acme", 7, GroupIx::DEFAULT));
    assert_eq!(
        (tenant.status, &tenant.grant),
        (TenantStatus::Suspended, &ModelGrant::Only(["m".into()].into()))
    );

    let path = format!("/models/{}", made["id"].as_str().unwrap());
    let (pool, revision) = (model.pool, endpoint.revision);
    let after = |body: &str| {
        sidecar.expect(200, ("PATCH", &path), body);
        let next = newest(&sidecar.shards[0]);
        let model = &next.models()[0];
        assert_eq!(model.pool, pool, "the pool stays the model's");
        (model.endpoints[0].id, model.endpoints[0].revision)
    };
    assert_eq!(after(r#"{"max_in_flight":5}"#), (endpoint.id, revision));
    assert_eq!(after(r#"{"api_key":"sk-up"}"#), (endpoint.id, revision), "the same credential");
    assert_eq!(after(r#"{"api_key":"sk-up-2"}"#), (endpoint.id, revision + 1));
    let moved = r#"{"api_base":"http://127.0.0.1:8001","api_key":"sk-up-2"}"#;
    assert_eq!(after(moved), (endpoint.id, revision + 2));
    sidecar.expect(200, ("PUT", &format!("{path}/enabled")), r#"{"enabled":false}"#);
    assert!(newest(&sidecar.shards[1]).model("m").is_none());
    sidecar.expect(200, ("DELETE", &path), "");
    assert!(newest(&sidecar.shards[1]).models().is_empty());
    sidecar.expect(200, ("DELETE", &format!("/tenants/{id}")), "");
    assert!(newest(&sidecar.shards[1]).tenant(id).is_none());
}

#[test]
fn models_without_an_endpoint_share_the_default_upstream() {
    let sidecar = Running::start_with_default_upstream();
    sidecar.expect(201, ("POST", "/models"), r#"{"model_name":"a"}"#);
    sidecar.expect(201, ("POST", "/models"), r#"{"model_name":"b"}"#);
    let snapshot = newest(&sidecar.shards[0]);
    let [a, b] = ["a", "b"].map(|name| snapshot.model(name).unwrap().endpoints[0].clone());
    assert_eq!((a.id, &*a.authority, &*a.base_path), (b.id, "127.0.0.9:9", "/v1"));
    assert_ne!(snapshot.models()[0].pool, snapshot.models()[1].pool);
}

#[test]
fn a_name_is_resolved_when_it_is_written() {
    let sidecar = Running::start();
    let body = r#"{"model_name":"m","api_base":"http://localhost:8000"}"#;
    sidecar.expect(201, ("POST", "/models"), body);
    let snapshot = newest(&sidecar.shards[0]);
    let addresses = &snapshot.models()[0].endpoints[0].addresses;
    assert!(!addresses.is_empty() && addresses.iter().all(|at| at.ip().is_loopback() && at.port() == 8000));
}

#[test]
fn no_snapshot_lacks_the_addresses_of_a_name_that_was_just_written() {
    let sidecar = Running::start();
    let write = |port: u16| {
        let body = format!(r#"{{"model_name":"m{port}","api_base":"http://localhost:{port}"}}"#);
        for _ in 0..40 {
            let made = sidecar.expect(201, ("POST", "/models"), &body);
            let path = format!("/models/{}", made["id"].as_str().unwrap());
            assert_eq!(sidecar.send("POST", "/models", &body).status, 409, "a write that fails");
            sidecar.expect(200, ("DELETE", &path), "");
        }
    };
    let write = &write;
    let shard = &sidecar.shards[0].0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (8001..8005).map(|port| scope.spawn(move || write(port))).collect();
        let mut snapshots = 0;
        loop {
            let done = writers.iter().all(|writer| writer.is_finished());
            while let Some(command) = shard.take() {
                let Command::Snapshot(snapshot) = command else { continue };
                snapshots += 1;
                let lacks = snapshot.models().iter().find(|m| m.endpoints[0].addresses.is_empty());
                assert!(lacks.is_none(), "{lacks:?}");
            }
            if done {
                break;
            }
            std::thread::yield_now();
        }
        assert!(snapshots > 0);
    });
}

#[test]
fn a_shard_that_starts_again_gets_the_current_snapshot() {
    let sidecar = Running::start();
    sidecar.tenant("acme");
    let current = newest(&sidecar.shards[1]).generation;
    sidecar.hush();
    sidecar.shards[1].0.tell(Event::Started).unwrap();
    assert!(matches!(sidecar.shards[1].next(), Command::Snapshot(s) if s.generation == current));
    assert!(sidecar.shards[0].0.take().is_none());
}

#[test]
fn what_a_shard_has_done_with_is_freed_by_the_sidecar() {
    let sidecar = Running::start();
    sidecar.tenant("acme");
    let old = newest(&sidecar.shards[0]);
    sidecar.tenant("other");
    sidecar.hush();
    let gone = std::sync::Arc::downgrade(&old);
    sidecar.shards[0].0.tell(Event::Retired(old)).unwrap();
    // Events are handled in order, so an answer to a later one shows that the first was handled.
    sidecar.shards[0].look_up("sk_unknown");
    assert!(gone.upgrade().is_none());
}

#[test]
fn while_the_store_is_broken_a_key_ever_seen_works_on_every_core_and_others_are_not_called_unknown() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (_, seen) = sidecar.key(&tenant, "seen");
    let (_, unseen) = sidecar.key(&tenant, "unseen");
    assert!(matches!(sidecar.shards[0].look_up(&seen), KeyAnswer::Found(_)));
    let outside = sidecar.outside();
    outside.execute_batch("ALTER TABLE api_keys RENAME TO away").unwrap();
    assert!(matches!(sidecar.shards[1].look_up(&seen), KeyAnswer::Unconfirmed(..)));
    assert_eq!(sidecar.shards[1].look_up(&unseen), KeyAnswer::StoreDown);
    assert_eq!(sidecar.shards[1].look_up("sk_unknown"), KeyAnswer::StoreDown);
    let health = sidecar.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(
        health.body,
        r#"{"status":"degraded","store":"error","redis":"disabled","postgres":"disabled"}"#
    );
    let answer = sidecar.get("/keys");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "store_unavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(!answer.body.contains("api_keys"), "{}", answer.body);
    outside.execute_batch("ALTER TABLE away RENAME TO api_keys").unwrap();
    assert!(matches!(sidecar.shards[1].look_up(&unseen), KeyAnswer::Found(_)));
    assert_eq!(sidecar.get("/health").status, 200);
}
