//! The file: who may read it, what is in it, what is not, and when it is refused.

mod running;

use std::{fs, os::unix::fs::PermissionsExt};

use obleth_admin::{MasterKey, OpenError, Sidecar};
use running::{Running, TOKEN, settings};

fn open_error(dir: &tempfile::TempDir, change: impl FnOnce(&mut obleth_admin::Settings)) -> OpenError {
    let mut settings = settings(dir);
    change(&mut settings);
    let error = Sidecar::open(settings).expect_err("it must not open");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

#[test]
fn nobody_else_may_read_the_file_or_its_companions() {
    let sidecar = Running::start();
    sidecar.tenant("acme");
    let files = sidecar.files();
    assert_eq!(files.len(), 3);
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let database = files[0].clone();
    let (dir, settings) = sidecar.stop();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let _again = Running::start_in(dir, settings).unwrap();
    assert_eq!(fs::metadata(&database).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn no_secret_is_in_the_file() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("findable");
    let (id, secret) = sidecar.key(&tenant, "ci");
    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","api_key":"sk-upstream-credential"}"#;
    let model = sidecar.expect(201, ("POST", "/models"), body);
    let path = format!("/models/{}", model["id"].as_str().unwrap());
    sidecar.expect(200, ("PATCH", &path), r#"{"api_key":"sk-upstream-credential-2"}"#);
    sidecar.expect(200, ("DELETE", &path), "");
    let (_, rotated) = sidecar.rotate(&id, "");
    sidecar.expect(200, ("DELETE", &format!("/keys/{id}")), "");
    let bytes: Vec<u8> = sidecar.files().iter().flat_map(|file| fs::read(file).unwrap()).collect();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("findable"), "the search can find something");
    for hidden in [&secret, &secret[8..], &rotated[8..], "sk-upstream", TOKEN, &"\u{7}".repeat(32)] {
        assert!(!holds(hidden), "{hidden}");
    }
}

#[test]
fn a_change_and_its_audit_row_are_one() {
    let sidecar = Running::start();
    let count = |what: &str| -> i64 {
        sidecar.outside().query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
    };
    let before = count("audit");
    let tenant = sidecar.tenant("acme");
    let (id, secret) = sidecar.key(&tenant, "ci");
    sidecar.expect(200, ("PUT", &format!("/keys/{id}/disabled")), r#"{"disabled":true}"#);
    sidecar.expect(200, ("DELETE", &format!("/tenants/{tenant}")), "");
    assert_eq!(count("audit"), before + 4);
    let (actor, kind, old, new): (String, String, String, String) = sidecar
        .outside()
        .query_row(
            "SELECT actor, object_kind, before, after FROM audit WHERE action = 'key.disabled'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!((&*actor, &*kind), ("bootstrap-token", "key"));
    assert!(old.contains(r#""disabled":false"#) && new.contains(r#""disabled":true"#));
    assert!(!(old + &new).contains(&secret[7..]));

    sidecar.tenant("taken");
    let before = count("audit");
    assert_eq!(sidecar.send("POST", "/tenants", r#"{"name":"taken"}"#).status, 409);
    assert_eq!(sidecar.send("POST", "/tenants", r#"{"name":"x","group_name":"none"}"#).status, 400);
    assert_eq!(count("audit"), before, "a refused change is not on record");
    sidecar.outside().execute_batch("ALTER TABLE audit RENAME TO away").unwrap();
    assert_eq!(sidecar.send("POST", "/tenants", r#"{"name":"unrecorded"}"#).status, 503);
    assert_eq!(count("tenants WHERE name = 'unrecorded'"), 0, "what cannot be recorded is not done");
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (_, secret) = sidecar.key(&tenant, "ci");
    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","api_key":"sk-up"}"#;
    sidecar.expect(201, ("POST", "/models"), body);
    let before = ["/tenants", "/keys", "/models", "/groups"].map(|path| sidecar.get(path).body);
    let log = sidecar.files()[1].clone();
    let (dir, settings) = sidecar.stop();
    assert!(fs::metadata(log).map_or(0, |meta| meta.len()) == 0, "the file alone is complete");
    let again = Running::start_in(dir, settings).unwrap();
    assert_eq!(["/tenants", "/keys", "/models", "/groups"].map(|path| again.get(path).body), before);
    assert!(matches!(again.shards[0].look_up(&secret), obleth_policy::key::KeyAnswer::Found(_)));
    again.tenant("newer");
    let obleth_link::Command::Snapshot(snapshot) = again.shards[1].next() else { panic!("no snapshot") };
    assert_eq!(snapshot.models()[0].endpoints[0].credential.as_ref().unwrap().expose(), "sk-up");
}

#[test]
fn a_store_that_is_not_ours_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    drop(Sidecar::open(settings(&dir)).unwrap());
    let wrong = open_error(&dir, |settings| settings.master_key = MasterKey::generate());
    assert!(matches!(wrong, OpenError::WrongMasterKey { .. }), "{wrong}");

    let file = dir.path().join("obleth.db");
    let outside = rusqlite::Connection::open(&file).unwrap();
    let newer =
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (99, 'x', 'x', 0)";
    outside.execute_batch(newer).unwrap();
    let error = open_error(&dir, |_| {});
    assert!(matches!(error, OpenError::NewerSchema { found: 99, .. }), "{error}");
    outside.execute_batch("DELETE FROM schema_migrations WHERE version = 99").unwrap();
    outside.execute_batch("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1").unwrap();
    let error = open_error(&dir, |_| {});
    assert!(matches!(error, OpenError::AlteredSchema { version: 1, .. }), "{error}");

    let other = dir.path().join("other.db");
    fs::write(&other, "This is no database, but it is long enough to look at. ".repeat(100)).unwrap();
    let error = open_error(&dir, |settings| settings.database = other.clone());
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    fs::remove_file(&other).unwrap();
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = open_error(&dir, |settings| settings.database = other.clone());
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    let error = open_error(&dir, |settings| settings.database = dir.path().to_owned());
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    let error = open_error(&dir, |settings| settings.database = dir.path().join("no/such/folder.db"));
    assert!(matches!(error, OpenError::Create { .. }), "{error}");
    let upstream = obleth_admin::DefaultUpstream { base_url: "ftp://h".into(), api_key: None };
    let error = open_error(&dir, |settings| settings.default_upstream = Some(upstream));
    assert!(matches!(error, OpenError::DefaultUpstream(_)), "{error}");
}

/// Makes a file, or alters one.
type Make<'m> = &'m dyn Fn(&std::path::Path);

#[test]
fn a_file_that_is_refused_is_left_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let sql = |path: &std::path::Path, text: &str| {
        rusqlite::Connection::open(path).unwrap().execute_batch(text).unwrap();
    };
    let cases: [(&str, Make<'_>); 6] = [
        ("text", &|path| fs::write(path, "No database. ".repeat(500)).unwrap()),
        ("short", &|path| fs::write(path, "No database.").unwrap()),
        ("theirs", &|path| sql(path, "CREATE TABLE theirs (x)")),
        ("theirs with a log", &|path| sql(path, "PRAGMA journal_mode = wal; CREATE TABLE theirs (x)")),
        ("newer #1?", &|path| {
            sql(
                path,
                "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (99, 'x', 'x', 0)",
            )
        }),
        ("altered%41", &|path| sql(path, "UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")),
    ];
    for (name, make) in cases {
        // The name is odd on purpose: it must not be taken for a part of a URI.
        let folder = parent.path().join(name);
        fs::create_dir(&folder).unwrap();
        let path = folder.join("obleth.db");
        let dir = tempfile::tempdir_in(&folder).unwrap();
        if name.starts_with("newer") || name.starts_with("altered") {
            let own = obleth_admin::Settings { database: path.clone(), ..settings(&dir) };
            drop(Sidecar::open(own).unwrap());
        }
        make(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let state = || {
            let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
            files.sort();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            (files, mode, fs::read(&path).unwrap())
        };
        let before = state();
        let error = open_error(&dir, |settings| settings.database = path.clone());
        let fits = match name {
            "newer #1?" => matches!(error, OpenError::NewerSchema { found: 99, .. }),
            "altered%41" => matches!(error, OpenError::AlteredSchema { version: 1, .. }),
            _ => matches!(error, OpenError::NotADatabase { .. }),
        };
        assert!(fits, "{name}: {error}");
        assert!(state() == before, "{name}");
    }
}

#[test]
fn an_endpoint_whose_credential_was_moved_from_another_row_is_not_used() {
    let sidecar = Running::start();
    for name in ["a", "b"] {
        let body =
            format!(r#"{{"model_name":"{name}","api_base":"http://127.0.0.1:1","api_key":"sk-{name}"}}"#);
        sidecar.expect(201, ("POST", "/models"), &body);
    }
    sidecar.hush();
    let outside = sidecar.outside();
    let sealed = |name: &str| -> (String, Vec<u8>) {
        let sql = "SELECT e.id, e.credential FROM endpoints e JOIN model_names n USING (model_id) WHERE n.name = ?1";
        outside.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let ((a, of_a), (b, of_b)) = (sealed("a"), sealed("b"));
    for (id, credential) in [(a, of_b), (b, of_a)] {
        outside.execute("UPDATE endpoints SET credential = ?2 WHERE id = ?1", (id, credential)).unwrap();
    }
    sidecar.tenant("acme");
    let obleth_link::Command::Snapshot(snapshot) = sidecar.shards[0].next() else { panic!("no snapshot") };
    assert!(snapshot.models().iter().all(|model| model.endpoints.is_empty()));
    let models = sidecar.get("/models").json();
    assert_eq!(models[0]["endpoints"][0]["has_api_key"], true);
    let path = format!("/models/{}", models[0]["id"].as_str().unwrap());
    sidecar.hush();
    sidecar.expect(200, ("PATCH", &path), r#"{"api_key":"sk-new"}"#);
    let obleth_link::Command::Snapshot(snapshot) = sidecar.shards[0].next() else { panic!("no snapshot") };
    let used: Vec<usize> = snapshot.models().iter().map(|model| model.endpoints.len()).collect();
    assert_eq!(used, [0, 1]);
}

#[test]
fn the_demo_can_be_set_up_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut secrets = Vec::new();
    for port in [1001, 1002] {
        let mut sidecar = Sidecar::open(settings(&dir)).unwrap();
        let seed = sidecar.seed_demo(([127, 0, 0, 1], port).into()).unwrap();
        assert_eq!(seed.model, "demo");
        secrets.push(seed.secret);
    }
    let own = settings(&dir);
    let sidecar = Running::start_in(dir, own).unwrap();
    for secret in &secrets {
        assert!(matches!(sidecar.shards[0].look_up(secret), obleth_policy::key::KeyAnswer::Found(_)));
    }
    assert_eq!(sidecar.get("/tenants").json().as_array().unwrap().len(), 1);
    let models = sidecar.get("/models").json();
    assert_eq!(models[0]["endpoints"][0]["api_base"], "http://127.0.0.1:1002/v1");
}
