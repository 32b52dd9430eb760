//! Load that survives its gateway: a loop, closed or open, that connects again when it is cut, and writes down what came
//! of every request.
//!
//! One thread, one epoll, as the other generators; it differs in that no failure ends it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    net::sockopt::set_socket_linger,
    time::Timespec,
};

use super::{
    mix::Mix,
    reader::{Reader, Whole},
    told::{End, Told},
};
use crate::{
    load::{Arrivals, Schedule},
    signals,
};

/// Most bytes one read brings.
const READ: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to leave a gateway alone that takes no connection.
const PAUSE: Duration = Duration::from_millis(20);
/// The least that an open loop sleeps.
const TICK: Duration = Duration::from_micros(500);
/// Which schedule the open loop has.
const SCHEDULE: u64 = 7;
/// How long nothing may happen with requests under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to send, and where to.
pub(super) struct Plan {
    pub(super) target: SocketAddr,
    pub(super) mix: Mix,
    pub(super) connections: usize,
    pub(super) requests: usize,
    /// Requests per second, Poisson; none: each connection asks again when it has its answer.
    pub(super) rate: Option<f64>,
    /// The run's clock.
    pub(super) begin: Instant,
}

/// The load under way.
pub(super) struct Load<'a> {
    plan: Plan,
    /// Requests sent, for whoever waits for a moment.
    sent: &'a AtomicUsize,
    epoll: OwnedFd,
    places: Vec<Place>,
    /// Places without a request, and from when on they may connect.
    idle: Vec<(Instant, usize)>,
    /// The open loop's requests.
    schedule: Option<Schedule>,
    farewells: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    told: Vec<Told>,
    /// When something last happened.
    alive: Instant,
}

/// A place for a connection.
#[derive(Debug, Default)]
struct Place {
    socket: Option<TcpStream>,
    reader: Reader,
    /// Number of the request under way.
    request: Option<usize>,
}

impl<'a> Load<'a> {
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new(plan: Plan, sent: &'a AtomicUsize) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            sent,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            places: (0..plan.connections).map(|_| Place::default()).collect(),
            idle: (0..plan.connections).map(|at| (now, at)).collect(),
            schedule: plan.rate.map(|rate| Schedule::new(now, rate, Arrivals::Poisson, SCHEDULE)),
            farewells: BinaryHeap::new(),
            told: Vec::with_capacity(plan.requests),
            alive: now,
            plan,
        })
    }

    /// Sends everything, and gives what came of it, in the order of the requests' numbers.
    ///
    /// # Errors
    /// Nothing happened for too long, or what came is no HTTP, or a signal came.
    pub(super) fn run(mut self) -> Result<Vec<Told>> {
        let mut buffer = vec![0; READ];
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            signals::check()?;
            let now = Instant::now();
            self.leave(now);
            self.send_all(now)?;
            if self.told.len() >= self.plan.requests
                && self.places.iter().all(|place| place.request.is_none())
            {
                return Ok(self.told);
            }
            ensure!(now < self.alive + PATIENCE, "nothing has happened for {PATIENCE:?}");
            self.wait(now, &mut events)?;
            for event in events.drain(..) {
                self.receive(usize::try_from(event.data.u64())?, &mut buffer)?;
            }
        }
    }

    /// Gives everybody who has nothing to do a request, as long as there are some.
    fn send_all(&mut self, now: Instant) -> Result<()> {
        for (from, at) in std::mem::take(&mut self.idle) {
            if self.told.len() >= self.plan.requests {
                continue;
            }
            if from > now {
                self.idle.push((from, at));
                continue;
            }
            if !self.connect(at)? {
                self.idle.push((now + PAUSE, at));
                continue;
            }
            // What finds everybody busy leaves late.
            if self.schedule.as_mut().is_some_and(|schedule| schedule.due(now).is_none()) {
                self.idle.push((from, at));
                continue;
            }
            self.send(at)?;
        }
        Ok(())
    }

    /// Whether there is a connection.
    fn connect(&mut self, at: usize) -> Result<bool> {
        let Some(place) = self.places.get_mut(at) else { return Ok(false) };
        if place.socket.is_some() {
            return Ok(true);
        }
        let Ok(socket) = TcpStream::connect_timeout(&self.plan.target, CONNECT) else { return Ok(false) };
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        place.socket = Some(socket);
        Ok(true)
    }

    fn send(&mut self, at: usize) -> Result<()> {
        let number = self.told.len();
        let ask = self.plan.mix.draw(number);
        let now = self.plan.begin.elapsed();
        self.told.push(Told { kind: ask.kind, sent: now, ended: now, tokens: 0, end: End::UnderWay });
        self.sent.store(self.told.len(), Ordering::Relaxed);
        let Some(place) = self.places.get_mut(at) else { return Ok(()) };
        place.request = Some(number);
        let written = place.socket.as_mut().map(|socket| socket.write(&ask.bytes));
        match written {
            Some(Ok(count)) if count < ask.bytes.len() => {
                bail!("a request that does not fit into the socket")
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.end_of(at),
        }
        if let Some(stays) = ask.leaves {
            self.farewells.push(Reverse((Instant::now() + stays, at, number)));
        }
        Ok(())
    }

    fn receive(&mut self, at: usize, buffer: &mut [u8]) -> Result<()> {
        let Some(place) = self.places.get_mut(at) else { return Ok(()) };
        // An event of a socket that was closed since.
        let Some(socket) = &mut place.socket else { return Ok(()) };
        let read = match socket.read(buffer) {
            Ok(0) => None,
            Ok(read) => buffer.get(..read),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(_) => None,
        };
        let Some(fresh) = read else {
            self.end_of(at);
            return Ok(());
        };
        let Some(number) = place.request else { bail!("bytes that nobody asked for") };
        let taken = place.reader.take(fresh).with_context(|| format!("request {number}"))?;
        if let Some(Whole { refusal, tokens, keeps }) = taken {
            if !keeps {
                place.socket = None;
            }
            self.ended(at, refusal.map_or(End::Whole, End::Refused), tokens);
        }
        Ok(())
    }

    /// The connection of a place is gone.
    fn end_of(&mut self, at: usize) {
        let Some(place) = self.places.get_mut(at) else { return };
        place.socket = None;
        let (tokens, done) = place.reader.give_up();
        if place.request.is_some() {
            self.ended(at, if done { End::Whole } else { End::Cut }, tokens);
        }
    }

    /// The request of a place has ended.
    fn ended(&mut self, at: usize, end: End, tokens: u64) {
        let request = self.places.get_mut(at).and_then(|place| place.request.take());
        if let Some(told) = request.and_then(|number| self.told.get_mut(number)) {
            (told.end, told.tokens, told.ended) = (end, tokens, self.plan.begin.elapsed());
        }
        self.alive = Instant::now();
        self.idle.push((self.alive, at));
    }

    /// Closes what clients do not wait for any longer: every other one at once, unread bytes or not.
    fn leave(&mut self, now: Instant) {
        while let Some(Reverse((when, at, number))) = self.farewells.peek().copied()
            && when <= now
        {
            self.farewells.pop();
            let Some(place) = self.places.get_mut(at).filter(|place| place.request == Some(number)) else {
                continue;
            };
            if let Some(socket) = place.socket.take()
                && number % 2 == 0
            {
                // A socket that cannot be reset is closed all the same.
                let _ = set_socket_linger(&socket, Some(Duration::ZERO));
            }
            let (tokens, _) = place.reader.give_up();
            self.ended(at, End::Left, tokens);
        }
    }

    /// Sleeps until something arrives or is due.
    fn wait(&self, now: Instant, events: &mut Vec<Event>) -> Result<()> {
        let leaves = self.farewells.peek().map(|Reverse((when, ..))| *when);
        let comes = match &self.schedule {
            Some(schedule) if !self.idle.is_empty() => Some(schedule.next().max(now + TICK)),
            Some(_) => None,
            None => self.idle.iter().map(|(from, _)| *from).min(),
        };
        let due = leaves.into_iter().chain(comes).fold(now + CONNECT, Instant::min);
        let timeout = Timespec::try_from(due.saturating_duration_since(now))?;
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
