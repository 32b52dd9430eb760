//! Tests of the configuration as a whole: precedence, places, and that every setting has an effect.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{
    table::{Name, TABLE, find},
    *,
};

struct Given {
    folder: tempfile::TempDir,
    file: Option<PathBuf>,
}

impl Given {
    fn nothing() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), file: None }
    }

    fn file(text: &str) -> Self {
        let mut given = Self::nothing();
        given.file = Some(given.put("o.toml", text));
        given
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, flags: Flags, environment: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        load(self.file.as_deref(), flags, Environment::of(environment)).map_err(|error| match error {
            LoadError::File(fault) => vec![fault.to_string()],
            LoadError::Faults(faults) => {
                let folder = format!("{}/", self.folder.path().display());
                faults.iter().map(|fault| fault.to_string().replace(&folder, "")).collect()
            }
        })
    }

    fn faults(&self, environment: &[(&str, &str)]) -> Vec<String> {
        self.load(Flags::default(), environment).expect_err("there are faults")
    }
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let cores = |given: &Given, flags, environment: &[(&str, &str)]| {
        given.load(flags, environment).unwrap().config.cores
    };
    let flag = || Flags::default().with("--cores", "CORES", Some("4".to_owned()));
    let file = Given::file("cores = 2\n");
    assert_eq!(cores(&Given::nothing(), Flags::default(), &[]), None);
    assert_eq!(cores(&file, Flags::default(), &[]), Some(2));
    assert_eq!(cores(&file, Flags::default(), &[("OBLETH_CORES", "3")]), Some(3));
    assert_eq!(cores(&file, flag(), &[("OBLETH_CORES", "3")]), Some(4));
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let Config { proxy_listen, max_request_bytes, upstream_keepalive, drain_timeout, fail_open, .. } =
        Given::nothing().load(Flags::default(), &[]).unwrap().config;
    assert_eq!(proxy_listen.to_string(), "0.0.0.0:8080");
    assert_eq!((max_request_bytes, fail_open), (10 << 20, true));
    assert_eq!((upstream_keepalive.as_millis(), drain_timeout.as_secs()), (4000, 600));
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let given = Given::file("croes = 4\nredis_url = \"redis://x\"\nfail_open = \"maybe\"\n");
    let faults = given.faults(&[
        ("OBLETH_CORES", "0"),
        ("OBLETH_TLS_CERT", "/x"),
        ("RUST_LOG", "obleth=[loud"),
        ("OBLETH_DATABASE_URL", "postgres://u:p@h/d"),
    ]);
    let places: Vec<_> = faults.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "RUST_LOG",
            "o.toml:1 croes",
            "o.toml:2 redis_url",
            "OBLETH_TLS_CERT",
            "OBLETH_CORES",
            "OBLETH_DATABASE_URL",
            "o.toml:3 fail_open"
        ],
        "{faults:#?}"
    );
    assert!(faults[1].ends_with("did you mean `cores`?"));
    assert!(faults[2].ends_with("is not in this version; leave it out"));
    assert!(faults[5].contains("Postgres is not in this version"));
}

#[test]
fn an_unknown_variable_is_a_warning_with_a_suggestion() {
    let loaded = Given::nothing()
        .load(Flags::default(), &[("OBLETH_PROXY_LISTNE", "x"), ("OBLETH_SHIP", "y"), ("PATH", "/bin")])
        .unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "OBLETH_PROXY_LISTNE: is no setting and is ignored; did you mean OBLETH_PROXY_LISTEN?",
            "OBLETH_SHIP: is no setting and is ignored"
        ]
    );
}

#[test]
fn an_upper_case_key_is_unknown_and_its_remedy_is_named() {
    let faults = Given::file("OBLETH_CORES = 4\n").faults(&[]);
    assert_eq!(faults, ["o.toml:1 OBLETH_CORES: is no setting; did you mean `cores`?"]);
}

#[test]
fn a_secret_is_read_from_its_file_and_never_shown() {
    let given = Given::nothing();
    let path = given.put("token", "hunter2-hunter2-hunter2\n");
    let variable = ("OBLETH_ADMIN_TOKEN_FILE", path.to_str().unwrap());
    let loaded = given.load(Flags::default(), &[variable]).unwrap();
    assert_eq!(loaded.config.admin_token.as_ref().unwrap().expose(), "hunter2-hunter2-hunter2");
    assert!(!format!("{loaded:?}").contains("hunter2"));

    let twice = given.faults(&[variable, ("OBLETH_ADMIN_TOKEN", "0123456789abcdef")]);
    assert_eq!(
        twice,
        ["OBLETH_ADMIN_TOKEN_FILE: is given twice, also as OBLETH_ADMIN_TOKEN; keep one"],
        "one source, two values"
    );
    let missing = given.faults(&[("OBLETH_MASTER_KEY_FILE", "/nowhere/key")]);
    assert!(missing[0].starts_with("OBLETH_MASTER_KEY_FILE: cannot read /nowhere/key"), "{missing:?}");
}

#[test]
fn a_value_that_is_empty_is_a_fault_and_a_later_name_that_is_empty_is_not_set() {
    let faults = Given::nothing().faults(&[("OBLETH_API_KEY_PEPPER", ""), ("OBLETH_REDIS_URL", "")]);
    assert_eq!(faults, ["OBLETH_API_KEY_PEPPER: is empty; give it a value or leave it out"]);
}

#[test]
fn settings_that_contradict_each_other_are_faults() {
    let body = Given::nothing().faults(&[("OBLETH_MAX_REQUEST_BYTES", "2GiB")]);
    assert!(body[0].starts_with("OBLETH_MAX_REQUEST_BYTES: one body of 2 GiB does not fit"), "{body:?}");
    let port = Given::nothing().faults(&[("OBLETH_METRICS_LISTEN", "127.0.0.1:9090")]);
    assert_eq!(
        port,
        ["OBLETH_METRICS_LISTEN: 127.0.0.1:9090 is OBLETH_ADMIN_LISTEN's already; choose another port"]
    );
    let key = Given::nothing().faults(&[("OBLETH_UPSTREAM_API_KEY", "k")]);
    assert!(key[0].contains("set OBLETH_UPSTREAM_BASE_URL too"), "{key:?}");
    let password = Given::nothing().faults(&[("OBLETH_CLICKHOUSE_PASSWORD", "p")]);
    assert!(password[0].contains("set OBLETH_CLICKHOUSE_URL too"), "{password:?}");
    let signs = Given::nothing().faults(&[("OBLETH_ALERT_WEBHOOK_SECRET", "s")]);
    assert!(signs[0].contains("set OBLETH_ALERT_WEBHOOK_URL too"), "{signs:?}");
    let private = [("OBLETH_UPSTREAM_BASE_URL", "http://10.0.0.7"), ("OBLETH_BLOCK_PRIVATE_NETWORKS", "on")];
    let base = Given::nothing().faults(&private);
    assert!(base[0].starts_with("OBLETH_UPSTREAM_BASE_URL: is a private address"), "{base:?}");
    let fresh = [("OBLETH_ADMIN_LISTEN", "127.0.0.1:0"), ("OBLETH_METRICS_LISTEN", "127.0.0.1:0")];
    assert!(Given::nothing().load(Flags::default(), &fresh).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_told_apart() {
    let missing = Given { file: Some("/nowhere/o.toml".into()), ..Given::nothing() };
    assert!(missing.faults(&[])[0].starts_with("/nowhere/o.toml: cannot read the configuration file"));
}

/// Stands for a file with a certificate in it, made by the test.
const CA_FILE: &str = "ca.pem";

/// A value of each setting that is not its default.
const OTHERS: &[(&str, &str)] = &[
    ("PROXY_LISTEN", "127.0.0.1:1"),
    ("ADMIN_LISTEN", "127.0.0.1:2"),
    ("METRICS_LISTEN", "127.0.0.1:3"),
    ("CORES", "7"),
    ("DATABASE_URL", "sqlite:/x.db"),
    ("USAGE_RETENTION_DAYS", "66"),
    ("CLICKHOUSE_URL", "http://other:8123"),
    ("CLICKHOUSE_DB", "other"),
    ("CLICKHOUSE_USER", "other"),
    ("CLICKHOUSE_PASSWORD", "p"),
    ("ALERT_WEBHOOK_URL", "https://other/hook"),
    ("ALERT_WEBHOOK_SECRET", "s"),
    ("UPSTREAM_BASE_URL", "http://other"),
    ("UPSTREAM_API_KEY", "k"),
    ("UPSTREAM_CA_FILE", CA_FILE),
    ("BLOCK_PRIVATE_NETWORKS", "yes"),
    ("ADMIN_TOKEN", "0123456789abcdef"),
    ("MASTER_KEY", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
    ("API_KEY_PEPPER", "salt"),
    ("TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
    ("GLOBAL_MAX_IN_FLIGHT", "5"),
    ("DEFAULT_MODEL_MAX_IN_FLIGHT", "6"),
    ("ADMISSION_TIMEOUT_MS", "61"),
    ("MAX_QUEUE_DEPTH", "62"),
    ("MAX_TENANT_QUEUE_DEPTH", "63"),
    ("BROWNOUT_WAIT_MS", "64"),
    ("BROWNOUT_MAX_TOKENS", "65"),
    ("BROWNOUT_DEFAULT", "allow"),
    ("FAIL_OPEN", "off"),
    ("KEY_CACHE_ENTRIES", "8"),
    ("KEY_MAX_AGE_MS", "9"),
    ("KEY_STALE_OK_SECS", "10"),
    ("MAX_REQUEST_BYTES", "1 MiB"),
    ("MAX_BUFFERED_BYTES", "2 GiB"),
    ("CLIENT_HEAD_TIMEOUT_MS", "1001"),
    ("CLIENT_BODY_PAUSE_MS", "1002"),
    ("CLIENT_IDLE_TIMEOUT_MS", "1003"),
    ("CLIENT_WRITE_TIMEOUT_MS", "1004"),
    ("CLIENT_SILENT_TIMEOUT_MS", "2005"),
    ("UPSTREAM_CONNECT_TIMEOUT_MS", "11"),
    ("UPSTREAM_FIRST_BYTE_TIMEOUT_MS", "12"),
    ("UPSTREAM_IDLE_TIMEOUT_MS", "13"),
    ("UPSTREAM_TOTAL_TIMEOUT_MS", "14"),
    ("UPSTREAM_KEEPALIVE_MS", "15"),
    ("NODE", "gpu-7"),
    ("WAL_DIR", "/wal"),
    ("WAL_MAX_BYTES", "1 GiB"),
    ("WAL_BUFFER_BYTES", "1 MiB"),
    ("WAL_FSYNC_MS", "17"),
    ("DRAIN_TIMEOUT_SECS", "16"),
    ("LOG_FORMAT", "json"),
];

#[test]
fn every_setting_changes_its_own_field_from_variable_and_from_key() {
    let names: BTreeSet<_> = TABLE.iter().map(|setting| setting.name).collect();
    let tried: BTreeSet<_> = OTHERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, tried, "each row of the table has a line here");
    // These addresses are set throughout, because credentials for them are refused without.
    let bases = [
        ("OBLETH_UPSTREAM_BASE_URL", "http://backend"),
        ("OBLETH_CLICKHOUSE_URL", "http://clickhouse:8123"),
        ("OBLETH_ALERT_WEBHOOK_URL", "https://alerts/hook"),
    ];
    let before = format!("{:#?}", Given::nothing().load(Flags::default(), &bases).unwrap().config);
    let folder = Given::nothing();
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let ca_file = folder.put(CA_FILE, &ca.pem()).display().to_string();
    for (name, other) in OTHERS {
        let other = &if *other == CA_FILE { ca_file.as_str() } else { other };
        let variable = format!("OBLETH_{name}");
        let mut environment = bases.to_vec();
        environment.retain(|(name, _)| *name != variable);
        let others = environment.clone();
        environment.push((variable.as_str(), *other));
        let after = format!("{:#?}", Given::nothing().load(Flags::default(), &environment).unwrap().config);
        assert_ne!(before, after, "{name} changes nothing");
        let key = Given::file(&format!("{} = \"{other}\"\n", name.to_ascii_lowercase()));
        let keyed = format!("{:#?}", key.load(Flags::default(), &others).unwrap().config);
        assert_eq!(after, keyed, "{name} means the same as a key of the file");
    }
}

#[test]
fn every_secret_has_a_file_form_and_nothing_else_has() {
    for setting in TABLE {
        let form = find(&format!("{}_FILE", setting.name));
        assert_eq!(matches!(form, Name::SecretFile(_)), setting.secret, "{}", setting.name);
    }
}
