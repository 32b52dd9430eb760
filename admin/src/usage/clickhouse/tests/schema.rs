//! The tables: made, looked after, and left alone where they are somebody else's.

use super::*;

fn table(server: &Server) -> String {
    server.ask("SELECT engine_full FROM system.tables WHERE database = 'obleth-tests' AND name = 'usage'")
}

fn kept_for(server: &Server, folder: &Path, days: Option<u32>) -> ClickHouse {
    let source = Source { folder, log_id: LOG, durable: Position::default() };
    ClickHouse::open(&settings(server.url()), source, days).unwrap()
}

#[tokio::test]
async fn the_retention_that_is_set_is_the_tables() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    for (days, words) in [
        (Some(400), Some("+ toIntervalDay(400)")),
        (Some(40), Some("+ toIntervalDay(40)")),
        (None, None),
        (Some(400), Some("+ toIntervalDay(400)")),
    ] {
        kept_for(&server, folder.path(), days).put(&[], at(0), at(0)).await.unwrap();
        let table = table(&server);
        assert_eq!(words.is_some(), table.contains(" TTL "), "{table}");
        assert!(words.is_none_or(|words| table.contains(words)), "{table}");
    }
    assert_eq!(server.count("SELECT count() FROM `obleth-tests`.schema_migrations"), 1);
}

#[tokio::test]
async fn rows_end_when_their_days_are_over() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let ledger = kept_for(&server, folder.path(), Some(30));
    let mut rows = batch(10);
    let now = crate::clock::now();
    rows.iter_mut().for_each(|row| row.record.ts = now);
    rows[0].record.ts = UnixMs(now.0 - 40 * 86_400_000);
    // A clock that went astray makes no row end early.
    rows[1].record.ts = UnixMs(now.0 + 150 * 365 * 86_400_000);
    ledger.put(&rows, at(0), at(10)).await.unwrap();
    server.ask("OPTIMIZE TABLE `obleth-tests`.usage FINAL");
    assert_eq!(counts(&server), (9, 9));
    // What has ended is not made up for, however often it is put.
    let reopened = open_like_after_a_crash(&server, folder.path());
    reopened.put(&rows, at(0), at(10)).await.unwrap();
    server.ask("OPTIMIZE TABLE `obleth-tests`.usage FINAL");
    assert_eq!(counts(&server), (9, 9));
}

fn open_like_after_a_crash(server: &Server, folder: &Path) -> ClickHouse {
    std::fs::remove_file(folder.join("clickhouse.checkpoint")).unwrap();
    let source = Source { folder, log_id: LOG, durable: at(10) };
    ClickHouse::open(&settings(server.url()), source, Some(30)).unwrap()
}

#[tokio::test]
async fn two_gateways_that_start_at_once_make_one_schema() {
    let Some(server) = Server::start() else { return };
    let folders = [folder(), folder(), folder()];
    let [one, two, three] = folders.each_ref().map(|folder| open(server.url(), folder.path()));
    let (one, two, three) =
        tokio::join!(one.put(&[], at(0), at(0)), two.put(&[], at(0), at(0)), three.put(&[], at(0), at(0)));
    one.and(two).and(three).unwrap();
    assert_eq!(server.count("SELECT uniqExact(version) FROM `obleth-tests`.schema_migrations"), 1);
}

#[tokio::test]
async fn tables_of_others_and_of_newer_programs_are_not_touched() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let refused = async || match open(server.url(), folder.path()).put(&batch(1), at(0), at(1)).await {
        Err(LedgerFault::ClickHouse(fault)) => (fault.class, fault.words),
        other => panic!("it was taken: {other:?}"),
    };
    server.ask("CREATE DATABASE `obleth-tests`");
    server.ask("CREATE TABLE `obleth-tests`.usage (id UUID, theirs String) ENGINE = MergeTree ORDER BY id");
    let (class, words) = refused().await;
    assert_eq!(class, Class::OtherSchema);
    assert!(words.contains("no column ts"), "{words}");
    server.ask("DROP DATABASE `obleth-tests` SYNC");

    open(server.url(), folder.path()).put(&[], at(0), at(0)).await.unwrap();
    server.ask("INSERT INTO `obleth-tests`.schema_migrations VALUES (99, 'later', 'x', now64(3))");
    let (class, words) = refused().await;
    assert_eq!(class, Class::OtherSchema);
    assert!(words.contains("version 99 is newer"), "{words}");
    assert_eq!(counts(&server), (0, 0));
}

#[tokio::test]
async fn tables_that_were_dropped_are_made_again() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    ledger.put(&batch(3), at(0), at(3)).await.unwrap();
    server.ask("DROP DATABASE `obleth-tests` SYNC");
    assert!(ledger.put(&batch(5), at(3), at(8)).await.is_err());
    ledger.put(&batch(5), at(3), at(8)).await.unwrap();
    assert_eq!(counts(&server), (5, 5));
}
