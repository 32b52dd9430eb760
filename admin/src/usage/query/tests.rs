//! What questions may say, and what is said of those that may not.

use super::*;

/// 2026-11-21, noon.
const NOW: UnixMs = UnixMs(1_795_262_400_000);
const DAY_MS: i64 = 86_400_000;

fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn blamed<T: std::fmt::Debug>(answer: Result<T, BadQuery>) -> (String, String) {
    let BadQuery { param, message } = answer.unwrap_err();
    assert!(message.ends_with('.'), "{message}");
    (param.into_owned(), message)
}

#[test]
fn without_parameters_the_last_thirty_days_are_meant_this_moment_included() {
    let Summary { report, zone, interval } = totals(Vec::new(), NOW).unwrap();
    assert_eq!((report.scope.from.0, report.scope.to.0), (NOW.0 + 1 - 30 * DAY_MS, NOW.0 + 1));
    assert_eq!((report.edges.len(), report.by.len(), interval), (2, 0, None));
    assert_eq!(zone.name(), "UTC");
    assert_eq!(series(Vec::new(), NOW).unwrap().report.edges.len(), 32);
}

#[test]
fn days_are_those_of_the_zone_and_the_range_ends_before_its_end() {
    let query = pairs("tz=Europe/Berlin&from=2026-03-28&to=2026-03-31&by=model,day");
    let Summary { report, interval, .. } = totals(query, NOW).unwrap();
    let hours: Vec<_> = report.edges.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 3_600_000).collect();
    assert_eq!((hours, report.by, interval), (vec![24, 23, 24], vec![Dimension::Model], Some(Interval::Day)));
}

#[test]
fn each_filter_names_its_column() {
    let id = "0190a000-0000-7000-8000-000000000001";
    let query = format!(
        "tenant_id={id}&key_id={id}&group_name=g&model=m&endpoint=/v1/embeddings&outcome=ok&status=200"
    );
    let filters = totals(pairs(&query), NOW).unwrap().report.scope.filters;
    let mut columns: Vec<_> = filters.iter().map(Filter::column).collect();
    columns.sort_unstable();
    assert_eq!(columns, ["endpoint", "group_name", "key_id", "model", "outcome", "status", "tenant_id"]);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (query, param, word) in [
        ("from=2026-11-02&to=2026-11-01", "from", "before `to`"),
        ("from=2026-11-01&to=2026-11-01", "from", "before `to`"),
        ("from=2027-01-01", "from", "before `to`"),
        ("from=yesterday", "from", "2026-11-01T12:00:00Z"),
        ("to=1969-12-31", "to", "1970"),
        ("to=9999-01-01", "to", "2199"),
        ("tz=Europe/Atlantis", "tz", "Europe/Berlin"),
        ("tz=", "tz", "time zone"),
        ("by=colour", "by", "tenant, key, group, model, endpoint, outcome, status, hour, day, week, month"),
        ("by=", "by", "tenant"),
        ("by=tenant,tenant", "by", "`tenant`"),
        ("by=day,week", "by", "`week`"),
        ("by=hour&from=2020-01-01", "by", "10000"),
        ("tenant=5", "tenant", "tenant_id"),
        ("tenant_id=5", "tenant_id", "an id"),
        ("key_id=", "key_id", "an id"),
        ("endpoint=/v1/chat", "endpoint", "/v1/chat/completions"),
        ("outcome=good", "outcome", "client_gone"),
        ("status=20x", "status", "200"),
        ("status=-1", "status", "200"),
        ("model=a&model=b", "model", "twice"),
        ("interval=day", "interval", "no query parameter"),
        ("limit=5", "limit", "no query parameter"),
    ] {
        let (blamed, message) = blamed(totals(pairs(query), NOW));
        assert_eq!(blamed, param, "{query}");
        assert!(message.contains(word), "{query}: {message}");
    }
    for (query, param) in [
        ("interval=minute", "interval"),
        ("interval=hour&from=2020-01-01", "interval"),
        ("by=day", "by"),
        ("after=00", "after"),
    ] {
        assert_eq!(blamed(series(pairs(query), NOW)).0, param, "{query}");
    }
    for (query, param) in
        [("limit=0", "limit"), ("limit=1001", "limit"), ("after=00", "after"), ("by=model", "by")]
    {
        assert_eq!(blamed(logs(pairs(query), NOW)).0, param, "{query}");
    }
    assert_eq!(blamed(export(pairs("limit=5"), NOW)).0, "limit");
}

#[test]
fn a_long_name_is_not_repeated_whole() {
    let (param, message) = blamed(totals(pairs(&format!("{}=1", "x".repeat(9000))), NOW));
    assert_eq!((param.len(), message.len() < 300), (64, true));
}

#[test]
fn a_list_goes_on_in_the_range_of_its_first_page() {
    let first = logs(pairs("model=m"), NOW).unwrap();
    let after = Cursor::new(&first.scope, (NOW, Uuid::max()));
    let later = UnixMs(NOW.0 + DAY_MS);
    let second = logs(pairs(&format!("model=m&after={after}&limit=7")), later).unwrap();
    assert_eq!(second, Page { after: Some((NOW, Uuid::max())), limit: 7, ..first });
}

#[test]
fn a_cursor_of_another_question_is_refused() {
    let first = logs(pairs("model=m&from=2026-11-01"), NOW).unwrap();
    let after = Cursor::new(&first.scope, (NOW, Uuid::max()));
    for other in
        ["model=n&from=2026-11-01", "from=2026-11-01", "model=m&status=200", "model=m&from=2026-11-02"]
    {
        assert_eq!(blamed(logs(pairs(&format!("{other}&after={after}")), NOW)).0, "after", "{other}");
    }
    for same in
        ["model=m&from=2026-11-01", "model=m", "model=m&tz=Asia/Kolkata&from=2026-11-01T05:30:00 05:30"]
    {
        assert!(logs(pairs(&format!("{same}&after={after}")), NOW).is_ok(), "{same}");
    }
}
