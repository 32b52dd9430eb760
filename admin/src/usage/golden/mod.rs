//! What every ledger must answer, written once and run over each of them.
//!
//! The rows are the same in every run and lie around the hours at which five zones set their clocks. Each answer is
//! compared with a sum made here, the slow and obvious way, that shares nothing with the ledgers but the rows.

mod naive;
mod rows;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use obleth_ledger::Position;
use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use self::naive::{Key, Label, expected, label};
use super::{
    Ledger,
    calendar::Interval,
    cursor::Cursor,
    query::{self, Summary},
    report::{Dimension, Sums},
    row::{Entry, Row},
};

pub(crate) use rows::{Lot, at, rows};

/// Zones of the questions: east and west, half hours, half-hour summer time, south of the line.
const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Auckland"];

/// Everything, over an empty ledger.
pub(crate) async fn check(ledger: &Ledger) {
    let rows = rows();
    an_empty_ledger_answers(ledger).await;
    what_was_put_is_there_once(ledger, &rows).await;
    check_answers(ledger, &rows).await;
}

/// All answers, of a ledger that has these rows and no others.
pub(crate) async fn check_answers(ledger: &Ledger, rows: &[Row]) {
    rows_come_back_as_they_went(ledger, rows).await;
    totals_are_those_of_a_naive_sum(ledger, rows).await;
    series_are_those_of_a_naive_sum(ledger, rows).await;
    filters_leave_what_they_say(ledger, rows).await;
    what_used_nothing_has_no_cost(ledger, rows).await;
    every_grouping_comes_to_the_same_total(ledger, rows).await;
    paging_visits_each_row_once_while_rows_are_added(ledger, rows).await;
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// The year that the rows are of.
fn year(more: &str) -> Vec<(String, String)> {
    pairs(&format!("from=2026-01-01&to=2027-01-01{more}"))
}

const NOW: UnixMs = UnixMs(1_795_262_400_000);

async fn ask(ledger: &Ledger, summary: &Summary) -> BTreeMap<(Option<Label>, Key), Sums> {
    let Summary { report, zone, interval } = summary;
    let mut found = BTreeMap::new();
    for group in ledger.report(report.clone()).await.unwrap().groups {
        let key = group.key.into_iter().map(|cell| cell.map(naive::text)).collect();
        let label = interval.map(|interval| label(zone.name(), report.edges[group.bucket], interval));
        assert!(group.sums.requests > 0);
        let twice = found.insert((label, key), group.sums);
        assert_eq!(twice, None, "a group came twice");
    }
    found
}

async fn an_empty_ledger_answers(ledger: &Ledger) {
    assert_eq!(ledger.reached().await.unwrap(), None);
    for by in ["", "&by=tenant,model", "&by=day"] {
        let summary = query::totals(year(by), NOW).unwrap();
        let answer = ledger.report(summary.report).await.unwrap();
        assert_eq!((answer.groups.len(), answer.as_of), (0, None), "{by}");
    }
    assert_eq!(ledger.page(query::logs(year(""), NOW).unwrap()).await.unwrap(), []);
}

async fn what_was_put_is_there_once(ledger: &Ledger, rows: &[Row]) {
    let (first, second) = rows.split_at(rows.len() / 2);
    let place = |offset: u64| Position { segment: 3, offset };
    ledger.put(first.to_vec(), place(0), place(5000)).await.unwrap();
    assert_eq!(ledger.reached().await.unwrap(), Some(place(5000)));
    // The answer to a batch was lost: it comes again, as it was.
    ledger.put(first.to_vec(), place(0), place(5000)).await.unwrap();
    ledger.put(second.to_vec(), place(5000), place(9000)).await.unwrap();
    ledger.put(Vec::new(), place(9000), place(9100)).await.unwrap();
    assert_eq!(ledger.reached().await.unwrap(), Some(place(9100)));
    let answer = ledger.report(query::totals(year(""), NOW).unwrap().report).await.unwrap();
    assert_eq!(answer.groups[0].sums.requests, rows.len() as u64);
    assert_eq!(answer.as_of, rows.iter().map(|row| row.record.ts).max());
}

async fn rows_come_back_as_they_went(ledger: &Ledger, rows: &[Row]) {
    let mut expected: Vec<_> = rows.iter().map(|row| (row.record.ts, row.record.id, row)).collect();
    expected.sort_by_key(|(ts, id, _)| Reverse((*ts, *id)));
    let page = query::logs(year("&limit=1000"), NOW).unwrap();
    let entries = ledger.page(page).await.unwrap();
    assert_eq!(entries.len(), 1000);
    for (entry, (ts, id, row)) in entries.iter().zip(expected) {
        assert_eq!(entry.place(), Some((ts, id)));
        assert!(entry.cells().iter().cloned().eq(row.cells()), "{entry:?}\n{row:?}");
    }
}

async fn totals_are_those_of_a_naive_sum(ledger: &Ledger, rows: &[Row]) {
    for zone in ZONES {
        for by in ["", "&by=tenant", "&by=key", "&by=group", "&by=model", "&by=endpoint", "&by=outcome"] {
            same(ledger, rows, &format!("&tz={zone}{by}")).await;
        }
        for by in ["status", "tenant,key", "model,group,outcome", "day", "tenant,week", "month,status"] {
            same(ledger, rows, &format!("&tz={zone}&by={by}")).await;
        }
    }
}

async fn same(ledger: &Ledger, rows: &[Row], query: &str) {
    let summary = query::totals(year(query), NOW).unwrap();
    assert_eq!(ask(ledger, &summary).await, expected(rows, &summary, |_| true), "{query}");
}

async fn series_are_those_of_a_naive_sum(ledger: &Ledger, rows: &[Row]) {
    for zone in ZONES {
        for interval in Interval::ALL {
            for by in ["", "&by=tenant", "&by=model,outcome"] {
                let query = format!("&tz={zone}&interval={}{by}", interval.as_str());
                let summary = query::series(year(&query), NOW).unwrap();
                assert_eq!(ask(ledger, &summary).await, expected(rows, &summary, |_| true), "{query}");
            }
        }
    }
    // A range that begins and ends within a day.
    let query = "from=2026-03-28T17:00:00Z&to=2026-03-30T05:00:00Z&tz=Europe/Berlin";
    let summary = query::series(pairs(query), NOW).unwrap();
    let found = ask(ledger, &summary).await;
    assert_eq!(found, expected(rows, &summary, |_| true));
    assert_eq!(found.len(), 3);
}

async fn filters_leave_what_they_say(ledger: &Ledger, rows: &[Row]) {
    let (tenant, key) = (rows[0].record.tenant, rows[1].record.key);
    let check = async |query: String, keep: &dyn Fn(&Row) -> bool| {
        let summary = query::totals(year(&query), NOW).unwrap();
        let expected = expected(rows, &summary, keep);
        assert!(!expected.is_empty(), "{query} leaves something");
        assert_eq!(ask(ledger, &summary).await, expected, "{query}");
    };
    check(format!("&tenant_id={tenant}&by=key"), &|row| row.record.tenant == tenant).await;
    check(format!("&key_id={key}&by=model,day"), &|row| row.record.key == key).await;
    let is = |name: &Option<std::sync::Arc<str>>, text: &str| name.as_deref() == Some(text);
    check("&group_name=gold&by=tenant".into(), &|row| is(&row.group_name, "gold")).await;
    check(format!("&model={}&outcome=ok", "llama"), &|row| {
        is(&row.model_name, "llama") && row.record.outcome.as_str() == "ok"
    })
    .await;
    check("&status=403&endpoint=/v1/embeddings&by=group".into(), &|row| {
        row.record.status == 403 && row.record.endpoint.label() == "/v1/embeddings"
    })
    .await;
    let none = query::totals(year("&model=lla"), NOW).unwrap();
    assert_eq!(ask(ledger, &none).await.len(), 0);
}

/// Refusals, one by one and together: a sum of nothing known is no sum, and nothing that was used lacks a price.
async fn what_used_nothing_has_no_cost(ledger: &Ledger, rows: &[Row]) {
    assert!(rows.iter().all(|row| row.record.usage_source.is_some() || row.record.cost.is_none()));
    for by in ["", "&by=tenant", "&by=key,hour", "&by=outcome"] {
        let summary = query::totals(year(&format!("&status=403{by}")), NOW).unwrap();
        let answer = ask(ledger, &summary).await;
        assert!(!answer.is_empty(), "{by}");
        for sums in answer.values() {
            assert_eq!((sums.cost_micro_usd, sums.unpriced, sums.input_tokens), (None, 0, 0), "{by}");
        }
    }
}

async fn every_grouping_comes_to_the_same_total(ledger: &Ledger, rows: &[Row]) {
    let refused = rows.iter().filter(|row| row.record.outcome.as_str() == "rejected").count();
    assert!(refused > 100, "the rows have refusals");
    for zone in ZONES {
        let mut totals = Vec::new();
        let words = Dimension::ALL.map(Dimension::as_str).into_iter();
        for by in words.chain(Interval::ALL.iter().map(|interval| interval.as_str())) {
            let summary = query::totals(year(&format!("&tz={zone}&by={by}")), NOW).unwrap();
            let mut total = Sums::default();
            ask(ledger, &summary).await.values().for_each(|sums| total += sums);
            totals.push(total);
        }
        assert!(totals.windows(2).all(|pair| pair[0] == pair[1]), "{zone}: {totals:#?}");
        assert_eq!(totals[0].outcomes[1], refused as u64);
    }
}

async fn paging_visits_each_row_once_while_rows_are_added(ledger: &Ledger, rows: &[Row]) {
    let first = query::logs(year("&limit=97"), NOW).unwrap();
    let mut page = first.clone();
    let mut seen: Vec<(UnixMs, Uuid)> = Vec::new();
    let mut added = BTreeSet::new();
    for turn in 0_u64.. {
        let entries = ledger.page(page).await.unwrap();
        let Some(last) = entries.last().and_then(Entry::place) else { break };
        seen.extend(entries.iter().map(|entry| entry.place().unwrap()));
        assert!(seen.len() <= rows.len() + 20, "the pages do not come to an end");
        // As through the API, by the text of the cursor.
        let after = Cursor::new(&first.scope, last);
        page = query::logs(year(&format!("&limit=97&after={after}")), NOW).unwrap();
        if turn < 10 {
            let newer = at(UnixMs(NOW.0 + i64::try_from(turn).unwrap()), 900_000 + turn);
            let older = at(UnixMs(last.0.0 - 1), 910_000 + turn);
            added.extend([newer.record.id, older.record.id]);
            let place = |turn: u64| Position { segment: 4, offset: turn };
            ledger.put(vec![newer, older], place(turn), place(turn + 1)).await.unwrap();
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, nothing twice");
    let seen: BTreeSet<_> = seen.into_iter().map(|(_, id)| id).filter(|id| !added.contains(id)).collect();
    assert_eq!(seen, rows.iter().map(|row| row.record.id).collect());
}
