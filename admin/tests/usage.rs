//! `/usage` through a running sidecar: names, pages, the export, and what it refuses.

mod running;

use std::{collections::BTreeSet, fs};

use obleth_admin::{ClickHouseSettings, Sidecar};
use obleth_policy::key::KeyAnswer;
use running::{Answer, Record, Running, until};
use serde_json::{Value, json};

/// 2026-11-21, noon.
const NOON: i64 = 1_795_262_400_000;
/// 2096, long after any test.
const LATER: i64 = 4_000_000_000_000;
const RANGE: &str = "from=2026-11-01&to=2026-12-01";

/// A sidecar with a tenant and a key.
struct Stage {
    sidecar: Running,
    tenant: String,
    key: String,
}

impl Stage {
    fn new() -> Self {
        let sidecar = Running::start();
        let tenant = sidecar.tenant("acme");
        let (key, _) = sidecar.key(&tenant, "ci");
        Self { sidecar, tenant, key }
    }

    fn record(&self, number: u16) -> Record {
        let mut rest = [0; 10];
        rest[8..].copy_from_slice(&number.to_be_bytes());
        Record {
            ts: NOON + i64::from(number / 3),
            rest,
            request_id: format!("r-{number}"),
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            model: "llama".into(),
            refused: false,
            input_tokens: 100,
            cost: Some(7),
        }
    }

    fn get(&self, path: &str) -> Value {
        self.sidecar.expect(200, ("GET", path), "")
    }
}

fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let path = link.strip_prefix("</api/v1").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    Some(path.to_owned())
}

fn ids(answer: &Answer) -> Vec<String> {
    answer.json().as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_report_adds_up_and_names_what_was_deleted() {
    let stage = Stage::new();
    let other = stage.sidecar.tenant("other");
    let (other_key, _) = stage.sidecar.key(&other, "laptop");
    stage.sidecar.record([stage.record(0)]);
    stage.sidecar.record([Record { cost: None, ..stage.record(1) }]);
    stage.sidecar.record([Record { refused: true, cost: None, input_tokens: 0, ..stage.record(2) }]);
    stage.sidecar.record([Record { tenant: other.clone(), key: other_key, ts: NOON + 5, ..stage.record(3) }]);
    stage.sidecar.expect(200, ("DELETE", &format!("/tenants/{}", stage.tenant)), "");

    let usage = stage.get(&format!("/usage?{RANGE}&by=tenant,key"));
    let totals = &usage["totals"];
    assert_eq!((&totals["requests"], &totals["outcomes"]["rejected"]), (&json!(4), &json!(1)));
    assert_eq!((&totals["input_tokens"], &totals["cost_micro_usd"]), (&json!(300), &json!(14)));
    assert_eq!((&totals["unpriced_requests"], &totals["mean_queue_ms"]), (&json!(1), &json!(4.0)));
    assert_eq!(usage["as_of"], "2026-11-21T12:00:00.005Z");
    let names: Vec<_> = usage["groups"].as_array().unwrap().iter().collect();
    let names: Vec<_> = names.iter().map(|g| (&g["tenant_name"], &g["key_name"], &g["requests"])).collect();
    let expected = [(json!("acme"), json!("ci"), json!(3)), (json!("other"), json!("laptop"), json!(1))];
    assert_eq!(names, expected.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>());
    for by in ["tenant", "key", "model", "group", "endpoint", "outcome", "status", "hour", "month"] {
        let usage = stage.get(&format!("/usage?{RANGE}&by={by}"));
        let groups = usage["groups"].as_array().unwrap().iter();
        assert_eq!(&usage["totals"], totals, "{by}");
        assert_eq!(groups.map(|group| group["requests"].as_u64().unwrap()).sum::<u64>(), 4, "{by}");
    }
    let refused = &stage.get(&format!("/usage?{RANGE}&outcome=rejected"))["totals"];
    let sums = ["requests", "cost_micro_usd", "unpriced_requests", "output_tokens"].map(|sum| &refused[sum]);
    assert_eq!(sums, [&json!(1), &json!(null), &json!(0), &json!(0)], "a sum of nothing known is no sum");
    let filtered = stage.get(&format!("/usage?{RANGE}&tenant_id={other}"));
    assert_eq!((&filtered["totals"]["requests"], &filtered["groups"]), (&json!(1), &json!([])));
}

#[test]
fn a_series_has_every_day_of_its_zone_also_those_without_requests() {
    let stage = Stage::new();
    // The last moment of the 24th and the first of the 25th, by Berlin's clock; the 25th has 25 hours.
    for (number, ts) in [(0, 1_792_879_199_999), (1, 1_792_879_200_000), (2, 1_792_969_199_999)] {
        stage.sidecar.record([Record { ts, ..stage.record(number) }]);
    }
    let query = "from=2026-10-24&to=2026-10-28&tz=Europe/Berlin&by=model";
    let series = stage.get(&format!("/usage/series?{query}"));
    let buckets = series["buckets"].as_array().unwrap().iter();
    let buckets: Vec<_> =
        buckets.map(|b| (b["local"].as_str().unwrap(), b["requests"].as_u64().unwrap())).collect();
    let expected = [
        ("2026-10-24T00:00:00+02:00", 1),
        ("2026-10-25T00:00:00+02:00", 2),
        ("2026-10-26T00:00:00+01:00", 0),
        ("2026-10-27T00:00:00+01:00", 0),
    ];
    assert_eq!(buckets, expected);
    assert_eq!((&series["totals"]["requests"], &series["tz"]), (&json!(3), &json!("Europe/Berlin")));
    let bucket = &series["buckets"][1];
    assert_eq!(
        (&bucket["from"], &bucket["to"]),
        (&json!("2026-10-24T22:00:00Z"), &json!("2026-10-25T23:00:00Z"))
    );
    assert_eq!(
        (&bucket["groups"][0]["model"], &bucket["groups"][0]["requests"]),
        (&json!("llama"), &json!(2))
    );
}

#[test]
fn logs_follow_their_links_to_the_end_and_show_each_row_once() {
    let stage = Stage::new();
    stage.sidecar.record((0..50).map(|number| stage.record(number)));
    let mut path =
        "/usage/logs?limit=7&model=llama&from=2026-11-21T13:00:00%2B01:00&to=2026-12-01".to_owned();
    let mut seen = Vec::new();
    for added in 100.. {
        let answer = stage.sidecar.get(&path);
        assert_eq!(answer.status, 200, "{}", answer.body);
        seen.extend(ids(&answer));
        let Some(next) = next(&answer) else { break };
        path = next;
        // Newer than all: not on the pages to come.
        stage.sidecar.record([stage.record(added)]);
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (50, 50));
    let row = &stage.get("/usage/logs?limit=1")[0];
    assert_eq!((&row["tenant_name"], &row["key_name"]), (&json!("acme"), &json!("ci")));
    assert_eq!((&row["ts"], &row["streamed"]), (&json!("2026-11-21T12:00:00.035Z"), &json!(true)));
}

#[test]
fn a_cursor_is_good_for_its_own_question_only() {
    let stage = Stage::new();
    stage.sidecar.record((0..3).map(|number| stage.record(number)));
    let answer = stage.sidecar.get(&format!("/usage/logs?{RANGE}&limit=1&model=llama"));
    let path = next(&answer).unwrap();
    let other = path.replace("model=llama", "model=qwen");
    assert_eq!(stage.sidecar.get(&other).refusal(), ("invalid_parameter".to_owned(), json!("after")));
    let (_, cursor) = path.rsplit_once('=').unwrap();
    assert_eq!(stage.sidecar.get(&format!("/usage/logs?model=llama&after={cursor}")).status, 200);
}

#[test]
fn the_export_holds_every_row_as_a_table_that_nothing_runs() {
    let stage = Stage::new();
    let hostile = "=HYPERLINK(\"http://x\",\"a\")\r\n";
    stage.sidecar.record((0..2500).map(|number| stage.record(number)));
    stage.sidecar.record([Record { ts: NOON - 1, model: hostile.into(), ..stage.record(9000) }]);
    let answer = stage.sidecar.get(&format!("/usage/export.csv?{RANGE}"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"obleth-usage.csv\""));
    let body = dechunk(&answer);
    assert!(body.starts_with("id,ts,request_id,"), "{}", &body[..100]);
    let (_, last) = body.split_once("r-9000").unwrap();
    assert!(last.contains(",\"'=HYPERLINK(\"\"http://x\"\",\"\"a\"\")\r\n\","), "{last}");
    let lines: Vec<_> = body.split("\r\n").collect();
    // A line of names, 2500 rows, one of two lines, and nothing behind the last end.
    assert_eq!(lines.len(), 1 + 2500 + 2 + 1);
    let first: Vec<_> = lines[1].split(',').collect();
    assert_eq!((first[2], first.len()), ("r-2499", lines[0].split(',').count()));
    assert!(lines[1].ends_with(",acme,ci"), "{}", lines[1]);
    let ids: BTreeSet<_> = lines[1..2501].iter().map(|line| &line[..36]).collect();
    assert_eq!(ids.len(), 2500);
    let none = stage.sidecar.get("/usage/export.csv?from=2020-01-01&to=2020-01-02");
    assert_eq!(dechunk(&none).lines().count(), 1);
}

/// The body without the marks of its chunks.
fn dechunk(answer: &Answer) -> String {
    if answer.header("transfer-encoding").is_none() {
        return answer.body.clone();
    }
    let (mut out, mut rest) = (String::new(), answer.body.as_str());
    loop {
        let (size, behind) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return out;
        }
        out.push_str(&behind[..size]);
        rest = &behind[size + 2..];
    }
}

#[test]
fn what_makes_no_sense_is_a_400_that_names_the_parameter() {
    let stage = Stage::new();
    for (path, param) in [
        ("/usage?from=2026-11-02&to=2026-11-01", "from"),
        ("/usage?tz=Mars/Olympus", "tz"),
        ("/usage?by=colour", "by"),
        ("/usage?by=hour&from=2020-01-01", "by"),
        ("/usage?limit=5", "limit"),
        ("/usage/series?interval=fortnight", "interval"),
        ("/usage/series?interval=hour&from=2020-01-01", "interval"),
        ("/usage/logs?after=0190a000-0000-7000-8000-000000000001", "after"),
        ("/usage/logs?limit=1001", "limit"),
        ("/usage/export.csv?status=many", "status"),
        ("/usage/export.csv?limit=5", "limit"),
    ] {
        let answer = stage.sidecar.get(path);
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.refusal(), ("invalid_parameter".to_owned(), json!(param)), "{path}");
    }
}

#[test]
fn the_document_names_exactly_the_parameters_that_are_taken() {
    let stage = Stage::new();
    let document = running::send(stage.sidecar.admin, ("GET", "/api/openapi.json"), &[], b"").json();
    for path in ["/usage", "/usage/series", "/usage/logs", "/usage/export.csv"] {
        let described = document["paths"][format!("/api/v1{path}")]["get"]["parameters"].as_array().unwrap();
        let described: BTreeSet<_> = described.iter().map(|one| one["name"].as_str().unwrap()).collect();
        let refused = stage.sidecar.get(&format!("{path}?nothing=1")).json();
        let (_, known) = refused["error"]["message"].as_str().unwrap().split_once("; there are ").unwrap();
        assert_eq!(known.trim_end_matches('.').split(", ").collect::<BTreeSet<_>>(), described, "{path}");
    }
}

#[test]
fn a_broken_ledger_is_a_503_and_the_rest_goes_on() {
    let stage = Stage::new();
    let conn = rusqlite::Connection::open(&stage.sidecar.settings.usage.database).unwrap();
    conn.execute_batch("ALTER TABLE blocks RENAME TO away").unwrap();
    for path in ["/usage", "/usage/series", "/usage/logs", "/usage/export.csv"] {
        let answer = stage.sidecar.get(path);
        assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "ledger_unavailable"), "{path}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(!answer.body.contains("blocks") && !answer.body.contains("usage.db"), "{}", answer.body);
    }
    assert_eq!(stage.get("/health")["status"], "ok");
    assert_eq!(stage.sidecar.get("/tenants").status, 200);
}

#[test]
fn a_sidecar_that_comes_back_needs_no_ledger_and_takes_it_when_it_can_be_opened() {
    let stage = Stage::new();
    let (key, secret) = stage.sidecar.key(&stage.tenant, "laptop");
    stage.sidecar.record([stage.record(0)]);
    let (dir, settings) = stage.sidecar.stop();
    let (usage, safe) = (settings.usage.database.clone(), dir.path().join("safe.db"));
    fs::rename(&usage, &safe).unwrap();
    fs::write(&usage, "something else").unwrap();
    assert!(Sidecar::open(settings.clone()).is_err(), "the process's first one must have its ledger");

    let sidecar = Running::start_again_in(dir, settings);
    let answer = sidecar.shards[0].look_up(&secret);
    assert!(matches!(answer, KeyAnswer::Found(found) if found.id.to_string() == key), "keys are looked up");
    assert_eq!(sidecar.get("/tenants").status, 200);
    for path in ["/usage", "/usage/series", "/usage/logs", "/usage/export.csv"] {
        let answer = sidecar.get(path);
        assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "ledger_unavailable"), "{path}");
    }
    assert_eq!(fs::read(&usage).unwrap(), b"something else", "what is not ours stays as it is");

    fs::rename(&safe, &usage).unwrap();
    until("the ledger is open", || sidecar.get("/usage").status == 200);
    let usage = sidecar.expect(200, ("GET", &format!("/usage?{RANGE}")), "");
    assert_eq!(usage["totals"]["requests"], 1);
}

#[test]
fn with_clickhouse_as_the_ledger_the_file_of_before_still_loses_what_is_too_old() {
    let stage = Stage::new();
    stage.sidecar.record([Record { ts: 0, ..stage.record(0) }, Record { ts: LATER, ..stage.record(1) }]);
    let (dir, mut settings) = stage.sidecar.stop();
    settings.usage.retention_days = 1;
    settings.usage.clickhouse = Some(ClickHouseSettings {
        url: "http://127.0.0.9:9".into(),
        database: "obleth".into(),
        user: "default".into(),
        password: None,
    });
    let database = settings.usage.database.clone();
    let sidecar = Running::start_in(dir, settings.clone()).unwrap();
    let times = || {
        let conn = rusqlite::Connection::open(&database).unwrap();
        let mut times = conn.prepare("SELECT min_ts FROM blocks").unwrap();
        let times = times.query_map([], |row| row.get(0)).unwrap();
        times.collect::<Result<Vec<i64>, _>>().unwrap()
    };
    until("the old row is gone", || times() == [LATER]);

    // It is not the ledger any more: nothing stops because of it, and none is made.
    let (dir, settings) = sidecar.stop();
    fs::write(&database, "something else").unwrap();
    let sidecar = Running::start_in(dir, settings).unwrap();
    assert_eq!(sidecar.get("/tenants").status, 200);
    let (dir, settings) = sidecar.stop();
    fs::remove_file(&database).unwrap();
    let _sidecar = Running::start_in(dir, settings).unwrap();
    assert!(!database.exists());
}

#[test]
fn a_report_of_many_parts_is_whole() {
    let stage = Stage::new();
    let many = |number: u16| Record { model: format!("m-{number}"), ..stage.record(number) };
    stage.sidecar.record((0..1500).map(many));
    let usage = stage.get(&format!("/usage?{RANGE}&by=model,tenant"));
    let groups = usage["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &usage["totals"]["requests"]), (1500, &json!(1500)));
    assert!(groups.iter().all(|group| group["tenant_name"] == "acme"));
    let series = stage.get("/usage/series?from=2026-09-01&to=2026-12-01&interval=hour");
    let requests =
        series["buckets"].as_array().unwrap().iter().map(|hour| hour["requests"].as_u64().unwrap());
    assert_eq!((requests.clone().count(), requests.sum::<u64>()), (91 * 24, 1500));
}
