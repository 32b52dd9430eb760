//! From the log into the ledger.

use std::{fs::File, io, sync::Arc, time::Duration};

use obleth_ledger::{Position, Tail};
use tokio::{net::unix::pipe, time::sleep};

use super::{Ledger, row::Row};
use crate::{snapshot::Publisher, stop::StopSignal};

const MOST_ROWS: usize = 10_000;

pub(crate) struct Shipper {
    pub(crate) tail: Tail,
    pub(crate) ledger: Ledger,
    pub(crate) node: Arc<str>,
    pub(crate) publisher: Arc<Publisher>,
}

impl Shipper {
    pub(crate) async fn run(self, _stop: StopSignal) -> io::Result<()> {
        let fd = self.tail.bell().fd().try_clone_to_owned()?;
        let bell = pipe::Receiver::from_file_unchecked(File::from(fd))?;
        let mut at = loop {
            match self.ledger.reached().await {
                Ok(reached) => break reached.unwrap_or_default(),
                Err(_) => sleep(Duration::from_secs(1)).await,
            }
        };
        loop {
            self.tail.bell().going_to_sleep();
            if self.tail.durable() <= at {
                bell.readable().await?;
                let mut count = [0; 8];
                while bell.try_read(&mut count).is_ok() {}
            }
            self.tail.bell().awake();
            at = match self.ship(at).await {
                Some(to) => to,
                None => {
                    sleep(Duration::from_secs(1)).await;
                    at
                }
            };
        }
    }

    async fn ship(&self, at: Position) -> Option<Position> {
        let batch = self.tail.read(at, MOST_ROWS).ok()?;
        let names = self.publisher.directory();
        let rows = batch.records.into_iter().map(|record| Row {
            model_name: record.model.map(|id| names.model_name(id)),
            group_name: record.group.map(|id| names.group_name(id)),
            node: Arc::clone(&self.node),
            record,
        });
        self.ledger.put(rows.collect(), batch.from, batch.to).await.ok()?;
        self.tail.release(batch.to);
        Some(batch.to)
    }
}
