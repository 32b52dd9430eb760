//! Connections whose shard is known, for a load that no balancing would give.
//!
//! The kernel decides by a hash which listener gets a connection, and nobody outside is told. But who answers is: a
//! few small requests on one connection are work for one thread of the gateway, and the kernel counts how long each
//! thread ran. Ask only while nothing else is going on.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::load::{AnswerReader, Progress};

/// Requests that tell a connection's thread.
const PROBES: u32 = 12;
/// How much longer than any other thread of the gateway the one that answered must have run.
const CLEARLY: u64 = 3;
/// Connections to try per connection wanted, before giving up: each shard gets every second one or so.
const TRIES: usize = 20;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections of two shards: so many of one, so many of another.
///
/// # Errors
/// The gateway does not answer, or all connections go to one thread.
pub(super) fn connections(pid: u32, gateway: SocketAddr, wanted: [usize; 2]) -> Result<[Vec<TcpStream>; 2]> {
    let mut by_thread: BTreeMap<u32, Vec<TcpStream>> = BTreeMap::new();
    for _ in 0..TRIES * wanted.iter().sum::<usize>() {
        let socket = TcpStream::connect_timeout(&gateway, PATIENCE)?;
        let before = run_times(pid)?;
        probe(&socket, gateway)?;
        // One that cannot be told is closed.
        let Some(thread) = busiest(&before, &run_times(pid)?) else { continue };
        by_thread.entry(thread).or_default().push(socket);
        if let Some(found) = taken(&mut by_thread, wanted) {
            return Ok(found);
        }
    }
    let found: Vec<usize> = by_thread.values().map(Vec::len).collect();
    bail!("connections went to threads as {found:?}, and not as {wanted:?}")
}

/// The connections, if there are enough of two threads. The thread with most gets the longer list.
fn taken(by_thread: &mut BTreeMap<u32, Vec<TcpStream>>, wanted: [usize; 2]) -> Option<[Vec<TcpStream>; 2]> {
    let mut threads: Vec<_> = by_thread.iter().map(|(thread, sockets)| (sockets.len(), *thread)).collect();
    threads.sort_unstable();
    let [.., (fewer, small), (more, large)] = threads.as_slice() else { return None };
    let swapped = wanted[0] > wanted[1];
    let (low, high) = if swapped { (wanted[1], wanted[0]) } else { (wanted[0], wanted[1]) };
    if *fewer < low || *more < high {
        return None;
    }
    let mut take = |thread: &u32, count| {
        let mut sockets = by_thread.remove(thread).unwrap_or_default();
        sockets.truncate(count);
        sockets
    };
    let (low, high) = (take(small, low), take(large, high));
    Some(if swapped { [high, low] } else { [low, high] })
}

/// Small requests, one after the other.
fn probe(mut socket: &TcpStream, gateway: SocketAddr) -> Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /health HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
    let (mut reader, mut buffer) = (AnswerReader::new(), [0; 4096]);
    for _ in 0..PROBES {
        socket.write_all(request.as_bytes())?;
        loop {
            let read = socket.read(&mut buffer)?;
            ensure!(read > 0, "the gateway closed a connection");
            let fresh = buffer.get(..read).unwrap_or_default();
            if matches!(reader.take(fresh, |_| {})?, Progress::Complete(_)) {
                break;
            }
        }
    }
    Ok(())
}

/// How long each thread of a process has run, in nanoseconds.
fn run_times(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let mut all = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the gateway is gone")?.flatten() {
        let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let schedule = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        all.insert(id, schedule.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default());
    }
    Ok(all)
}

/// The thread that ran longest in between, if no other one ran nearly as long.
fn busiest(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> Option<u32> {
    let ran = |(thread, time): (&u32, &u64)| {
        (time.saturating_sub(before.get(thread).copied().unwrap_or_default()), *thread)
    };
    let mut threads: Vec<(u64, u32)> = after.iter().map(ran).collect();
    threads.sort_unstable_by(|left, right| right.cmp(left));
    let next = threads.get(1).map_or(0, |(time, _)| *time);
    threads.first().filter(|(time, _)| *time > 0 && *time >= CLEARLY * next).map(|(_, thread)| *thread)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_thread_that_answered_is_told_only_if_it_is_clear() {
        let before = BTreeMap::from([(1, 90_000), (2, 5000), (3, 0)]);
        let after = BTreeMap::from([(1, 100_000), (2, 305_000), (3, 1), (4, 20_000)]);
        assert_eq!(busiest(&before, &after), Some(2));
        assert_eq!(busiest(&before, &before), None);
        let both = BTreeMap::from([(1, 390_000), (2, 305_000), (3, 0)]);
        assert_eq!(busiest(&before, &both), None);
    }

    #[test]
    fn connections_are_taken_once_two_threads_have_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut by_thread = BTreeMap::from([(7, vec![socket(), socket()])]);
        assert!(taken(&mut by_thread, [2, 1]).is_none());
        by_thread.insert(9, vec![socket()]);
        let [two, one] = taken(&mut by_thread, [2, 1]).unwrap();
        assert_eq!((two.len(), one.len()), (2, 1));
        let mut by_thread = BTreeMap::from([(7, vec![socket(), socket()]), (9, vec![socket(), socket()])]);
        let [one, two] = taken(&mut by_thread, [1, 2]).unwrap();
        assert_eq!((one.len(), two.len()), (1, 2));
    }
}
