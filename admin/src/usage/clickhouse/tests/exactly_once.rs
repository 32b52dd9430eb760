//! No row twice and none lost: servers that are away, die in the middle, answer late or not at all, or remember what
//! they do not have.

use std::time::Duration;

use tokio::time::sleep;

use super::{faulty::Way, *};

/// Rows of one batch; they are of two days, so of two partitions.
const ROWS: u64 = 2000;
/// Times that a server is killed.
const KILLS: u32 = 6;

fn class(put: Result<(), LedgerFault>) -> Class {
    match put {
        Err(LedgerFault::ClickHouse(fault)) => fault.class,
        other => panic!("no fault of the server's: {other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_comes_later_gets_its_tables_and_every_row() {
    let Some(mut server) = Server::absent() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    let rows = batch(ROWS);
    assert_eq!(class(ledger.put(&rows, at(0), at(9)).await), Class::Unreachable);
    assert_eq!(ledger.reached().await, None);
    server.up();
    ledger.put(&rows, at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
    assert_eq!((ledger.reached().await, ledger.under_way().await), (Some(at(9)), None));
}

#[tokio::test]
async fn one_token_is_one_batch_also_over_midnight_and_over_a_restart_of_the_server() {
    let Some(mut server) = Server::start() else { return };
    let rows = batch(ROWS);
    // Two processes that know nothing of each other, and take the batch for a new one.
    for round in 0..3 {
        if round == 2 {
            server.kill();
            server.up();
        }
        let folder = folder();
        open(server.url(), folder.path()).put(&rows, at(0), at(9)).await.unwrap();
        assert_eq!(counts(&server), (ROWS, ROWS), "round {round}");
    }
    assert_eq!(server.count("SELECT uniqExact(toDate(ts)) FROM `obleth-tests`.usage"), 2);
    let folder = folder();
    open(server.url(), folder.path()).put(&batch(3), at(9), at(12)).await.unwrap();
    assert_eq!(counts(&server).0, ROWS + 3, "another token is another batch");
}

#[tokio::test]
async fn an_answer_that_is_lost_costs_no_row_and_makes_none_twice() {
    let Some(server) = Server::start() else { return };
    let (folder, way) = (folder(), Way::to(server.address()).await);
    let ledger = open(way.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    way.loses_answers();
    for _ in 0..3 {
        let class = class(ledger.put(&rows, at(0), at(9)).await);
        assert_eq!(class, Class::Unreachable);
    }
    assert_eq!(counts(&server), (ROWS, ROWS), "the first one arrived");
    assert_eq!((way.lost(), ledger.reached().await), (3, Some(at(0))));
    way.sound();
    until_taken(&ledger, &rows, (at(0), at(9))).await;
    assert_eq!(counts(&server), (ROWS, ROWS));
    assert_eq!(ledger.reached().await, Some(at(9)));
}

#[tokio::test]
async fn a_batch_that_is_cut_anywhere_costs_no_row_and_makes_none_twice() {
    let Some(server) = Server::start() else { return };
    let (folder, way) = (folder(), Way::to(server.address()).await);
    let ledger = open(way.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    // Not within a head: the library that serves here dies of that, unlike a server.
    for (round, bytes) in [2500, 5000, 10_000, 20_000, 40_000].into_iter().enumerate() {
        let (from, to) = (at(round as u64), at(round as u64 + 1));
        let rows: Vec<_> = rows.iter().cloned().map(|row| renewed(row, round)).collect();
        way.cuts_after(bytes);
        assert!(ledger.put(&rows, from, to).await.is_err(), "cut after {bytes}");
        assert!(ledger.put(&rows, from, to).await.is_err(), "cut after {bytes}");
        way.sound();
        until_taken(&ledger, &rows, (from, to)).await;
        let all = ROWS * (round as u64 + 1);
        assert_eq!(counts(&server), (all, all), "cut after {bytes}");
    }
}

/// Connections that were cut meanwhile cost a try each.
async fn until_taken(ledger: &ClickHouse, rows: &[Row], (from, to): (Position, Position)) {
    let mut tries = 0;
    while let Err(fault) = ledger.put(rows, from, to).await {
        tries += 1;
        assert!(tries < 5, "{fault:?}");
    }
}

/// The row as another one, of the same time.
fn renewed(mut row: Row, round: usize) -> Row {
    let (high, low) = row.record.id.as_u64_pair();
    row.record.id = Uuid::from_u64_pair(high + 0x10000 * (round as u64 + 1), low);
    row
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_has_every_row_once_in_the_end() {
    let Some(mut server) = Server::start() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let mut failed = 0;
    for kill in 0..KILLS {
        let rows: Vec<_> = batch(ROWS).into_iter().map(|row| renewed(row, kill as usize)).collect();
        let (from, to) = (at(kill.into()), at(kill as u64 + 1));
        let put = ledger.put(&rows, from, to);
        // Somewhere between its first byte and its answer: each time a bit later.
        let late = Duration::from_millis(4 + 90 * u64::from(kill) / u64::from(KILLS));
        let first = tokio::select! {
            put = put => put,
            () = async { sleep(late).await; server.kill() } => {
                server.up();
                Err(LedgerFault::TooSlow)
            }
        };
        failed += u32::from(first.is_err());
        if first.is_err() {
            // As after the gateway's own death: a process that knows what is on the disk only.
            let again = open(server.url(), folder.path());
            again.put(&rows, from, to).await.unwrap();
            let second = open(server.url(), folder.path());
            assert_eq!(second.reached().await, Some(to));
        }
        let all = ROWS * (u64::from(kill) + 1);
        assert_eq!(counts(&server), (all, all), "killed after {late:?}");
    }
    assert!(failed > 0, "at least one batch was under way");
}

#[tokio::test]
async fn rows_that_a_server_lost_though_it_remembers_their_token_are_put_again() {
    let Some(server) = Server::start() else { return };
    let (folder, way) = (folder(), Way::to(server.address()).await);
    let ledger = open(way.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    way.loses_answers();
    assert!(ledger.put(&rows, at(0), at(9)).await.is_err());
    way.sound();
    // What is left when a server dies between noting a token and its rows: the one without the others. It notes them per
    // partition, so half of them may be there.
    server.ask("DELETE FROM `obleth-tests`.usage WHERE toHour(ts) = 23");
    assert!(counts(&server).0 < ROWS);
    ledger.put(&rows, at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
    server.ask("DELETE FROM `obleth-tests`.usage WHERE 1");
    // And once more, by a process that has lost its checkpoint.
    std::fs::remove_file(folder.path().join("clickhouse.checkpoint")).unwrap();
    let ledger = open_with(&settings(server.url()), folder.path(), at(9));
    ledger.put(&rows, at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
}

/// The same, with the real moment: the server writes a token down, and then renames the folder of the rows.
#[tokio::test]
#[ignore = "takes strace, which tests/run --full installs"]
async fn a_server_that_dies_between_a_token_and_its_rows_has_every_row_once_in_the_end() {
    let Some(mut server) = Server::start() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    // The first partition of the batch, then the second.
    for (round, rename) in (0..4).zip([1, 2, 1, 2]) {
        let rows: Vec<_> = batch(ROWS).into_iter().map(|row| renewed(row, round as usize)).collect();
        let (from, to) = (at(round), at(round + 1));
        let mut fate = strace(&server, rename).await;
        assert!(ledger.put(&rows, from, to).await.is_err());
        server.kill();
        fate.wait().unwrap();
        server.up();
        assert!(counts(&server).0 < ROWS * (round + 1), "rows are missing");
        open(server.url(), folder.path()).put(&rows, from, to).await.unwrap();
        let all = ROWS * (round + 1);
        assert_eq!(counts(&server), (all, all));
    }
}

/// Kills the server the moment that it begins to rename something for that time.
async fn strace(server: &Server, rename: u64) -> std::process::Child {
    let pid = server.pid().expect("it runs");
    let fate = format!("inject=rename:signal=KILL:when={rename}");
    let options = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", &fate, "-p", &pid.to_string()];
    let strace = std::process::Command::new("strace").args(options).spawn().expect("strace is installed");
    let is_attached = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let status = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("status")));
        status.flatten().all(|status| !status.contains("TracerPid:\t0\n"))
    };
    while !is_attached() {
        sleep(Duration::from_millis(5)).await;
    }
    strace
}

#[tokio::test]
async fn a_batch_that_is_put_again_while_it_still_arrives_is_there_once() {
    let Some(server) = Server::start() else { return };
    let folders = [folder(), folder(), folder(), folder()];
    // Processes that all believe that the batch may have been sent.
    let ledgers = folders.each_ref().map(|folder| open_with(&settings(server.url()), folder.path(), at(9)));
    ledgers[0].put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    let puts = ledgers.each_ref().map(|ledger| ledger.put(&rows, at(0), at(9)));
    let [one, two, three, four] = puts;
    let (one, two, three, four) = tokio::join!(one, two, three, four);
    one.and(two).and(three).and(four).unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
}

#[tokio::test]
async fn a_batch_that_arrives_after_it_was_put_again_is_there_once() {
    let Some(server) = Server::start() else { return };
    let (folder, way) = (folder(), Way::to(server.address()).await);
    let ledger = open(way.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    tokio::select! {
        put = ledger.put(&rows, at(0), at(9)) => panic!("it was answered: {put:?}"),
        () = way.holds_one() => {}
    }
    assert_eq!(counts(&server).0, 0);
    // The next process.
    let again = open(server.url(), folder.path());
    assert_eq!(again.under_way().await, Some(at(9)));
    again.put(&rows, at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
    way.releases_it().await;
    assert_eq!(counts(&server), (ROWS, ROWS));
}

#[tokio::test]
async fn a_batch_of_other_bounds_after_a_restart_is_taken_for_what_it_adds() {
    let Some(server) = Server::start() else { return };
    let (folder, way) = (folder(), Way::to(server.address()).await);
    let ledger = open(way.url(), folder.path());
    ledger.put(&[], at(0), at(0)).await.unwrap();
    let rows = batch(ROWS);
    way.loses_answers();
    assert!(ledger.put(&rows[..1000], at(0), at(1000)).await.is_err());
    let ledger = open(server.url(), folder.path());
    assert_eq!(ledger.under_way().await, Some(at(1000)));
    ledger.put(&rows[..300], at(0), at(300)).await.unwrap();
    assert_eq!(counts(&server), (1000, 1000));
    ledger.put(&rows[300..], at(300), at(2000)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
    assert_eq!((ledger.reached().await, ledger.under_way().await), (Some(at(2000)), None));
}

#[tokio::test]
async fn rows_of_clocks_that_went_astray_are_there_once_too() {
    let Some(server) = Server::start() else { return };
    let times = [i64::MIN, -1, 0, EVENING.0, 7_258_118_400_000, 11_000_000_000_000, i64::MAX];
    let mut rows = batch(times.len() as u64);
    rows.iter_mut().zip(times).for_each(|(row, ts)| row.record.ts = UnixMs(ts));
    for _ in 0..2 {
        let folder = folder();
        let source = Source { folder: folder.path(), log_id: LOG, durable: at(9) };
        let ledger = ClickHouse::open(&settings(server.url()), source, None).unwrap();
        ledger.put(&rows, at(0), at(9)).await.unwrap();
        assert_eq!(counts(&server), (7, 7));
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_and_nothing_is_lost() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let wrong = ClickHouseSettings { password: Some(Secret::new("hunter2")), ..settings(server.url()) };
    let ledger = open_with(&wrong, folder.path(), Position::default());
    let Err(LedgerFault::ClickHouse(fault)) = ledger.put(&batch(9), at(0), at(9)).await else {
        panic!("it was taken")
    };
    assert_eq!((fault.class, fault.to_string().as_str()), (Class::AccessDenied, "access_denied"));
    assert!(
        fault.words.contains("Authentication failed") && !fault.words.contains("hunter2"),
        "{}",
        fault.words
    );
    assert!(!format!("{ledger:?} {wrong:?}").contains("hunter2"));
    let ledger = open(server.url(), folder.path());
    ledger.put(&batch(9), at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (9, 9));
}

#[tokio::test]
async fn the_user_may_have_no_password() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let open = ClickHouseSettings { user: "default".to_owned(), password: None, ..settings(server.url()) };
    open_with(&open, folder.path(), Position::default()).put(&batch(9), at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (9, 9));
}

#[tokio::test]
async fn a_batch_is_not_sent_while_its_checkpoint_cannot_be_written() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let gone = folder.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let ledger = open(server.url(), &gone);
    ledger.put(&[], at(0), at(0)).await.unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    assert_eq!(class(ledger.put(&batch(9), at(0), at(9)).await), Class::NoCheckpoint);
    assert_eq!(counts(&server), (0, 0));
    std::fs::create_dir(&gone).unwrap();
    ledger.put(&batch(9), at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (9, 9));
}
