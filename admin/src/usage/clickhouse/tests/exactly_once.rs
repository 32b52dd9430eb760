//! No row twice and none lost: servers that are away, die in the middle, answer late or not at all, or remember what
//! they do not have.

use std::time::Duration;

use tokio::time::sleep;

use super::{faulty::Way, *};

/// Rows of one batch; they are of two days, so of two partitions.
const ROWS: u64 = 2000;
/// Times that a server is killed.
const KILLS: u32 = if cfg!(debug_assertions) { 6 } else { 30 };

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
    assert_eq!((ledger.reached().await, ledger.sent().await), (Some(at(9)), None));
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
    // The client keeps connections for a while.
    let fresh = open(way.url(), folder.path());
    fresh.put(&[], at(0), at(0)).await.unwrap();
    drop((ledger, fresh));
    let ledger = open(way.url(), folder.path());
    ledger.ready().await.unwrap();
    way.loses_answers();
    for _ in 0..40 {
        // The connection that made the tables is sound; it is used up first.
        if way.lost() > 0 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        let _ = ledger.put(&rows, at(0), at(9)).await;
    }
    assert_eq!(way.lost(), 1);
    way.sound();
    ledger.put(&rows, at(0), at(9)).await.unwrap();
    assert_eq!(counts(&server), (ROWS, ROWS));
}
