//! The loop of a generator: what is due is sent, what has arrived is read, until the run is over.
//!
//! It never lets an answer decide when a request of the open loop was meant to leave. It sleeps in the kernel between
//! events (a timer of nanosecond grain wakes it), because the backend often has the same processor.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};

use super::{Edge, Pace, Plan, connection::Connection, outcome::Outcome, schedule::Schedule};
use crate::signals;

/// Most bytes one read brings.
const READ: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// The timer's place among the connections.
const TIMER: u64 = u64::MAX;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Warmup,
    Window,
    Drain,
}

/// A run of load.
pub(crate) struct Engine<'p> {
    plan: &'p Plan,
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    phase: Phase,
    /// When the window opens and closes.
    window: (Instant, Instant),
    source: Source,
    /// Bytes of the first answer.
    answer: Option<u64>,
    outcome: Outcome,
}

/// Where requests come from.
enum Source {
    /// Connections that have not sent their first request: the next of them, and the time between two.
    Closed { next: usize, begin: Instant, gap: Duration },
    /// The schedule, connections without work, and work without a connection.
    Open { schedule: Schedule, idle: VecDeque<usize>, late: VecDeque<Instant> },
}

impl<'p> Engine<'p> {
    /// Connects.
    pub(crate) fn new(plan: &'p Plan) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for (at, target) in (0..plan.connections).zip(plan.targets.iter().cycle()) {
            let connection = Connection::open(target.address)?;
            epoll::add(&epoll, &connection.socket, EventData::new_u64(at as u64), EventFlags::IN)?;
            connections.push(connection);
        }
        let begin = Instant::now();
        let open = begin + plan.warmup;
        let source = match plan.pace {
            Pace::Closed { ramp } => {
                let gap = ramp / u32::try_from(plan.connections.max(1)).unwrap_or(u32::MAX);
                Source::Closed { next: 0, begin, gap }
            }
            Pace::Open { rate, arrivals, seed } => {
                let schedule = Schedule::new(begin, rate, arrivals, seed);
                Source::Open { schedule, idle: (0..plan.connections).collect(), late: VecDeque::new() }
            }
        };
        Ok(Self {
            plan,
            epoll,
            timer,
            connections,
            phase: Phase::Warmup,
            window: (open, open + plan.window),
            source,
            answer: None,
            outcome: Outcome::new()?,
        })
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, at: &mut dyn FnMut(Edge) -> Result<()>) -> Result<Outcome> {
        let mut buffer = vec![0; READ];
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let mut opened = self.window.0;
        loop {
            let now = Instant::now();
            if self.phase == Phase::Warmup && now >= self.window.0 {
                at(Edge::Begin)?;
                self.phase = Phase::Window;
                opened = Instant::now();
            }
            if self.phase == Phase::Window && (now >= self.window.1 || self.is_spent()) {
                self.outcome.window = opened.elapsed();
                self.phase = Phase::Drain;
                at(Edge::End)?;
            }
            if self.phase == Phase::Drain && self.is_drained(now)? {
                return Ok(self.outcome);
            }
            if self.phase != Phase::Drain {
                self.send_due(now)?;
            }
            self.wait(&mut events)?;
            for event in events.drain(..) {
                if let Ok(at) = usize::try_from(event.data.u64())
                    && event.data.u64() != TIMER
                {
                    self.receive(at, &mut buffer)?;
                }
            }
        }
    }

    /// Whether every request that there will be has its answer, and that is the end.
    fn is_spent(&self) -> bool {
        let all = self.plan.each.map(|each| each * self.connections.len() as u64);
        self.plan.until_spent && all.is_some_and(|all| self.outcome.all >= all)
    }

    /// Whether nothing that counts is under way any more.
    fn is_drained(&self, now: Instant) -> Result<bool> {
        let Some(patience) = self.plan.drain else { return Ok(true) };
        let late = if let Source::Open { late, .. } = &self.source { late.len() } else { 0 };
        if late == 0 && !self.connections.iter().any(Connection::is_busy) {
            return Ok(true);
        }
        if now < self.window.1 + patience {
            return Ok(false);
        }
        let patience = patience.as_secs_f64();
        if late > 0 {
            bail!("the rate was not held: {late} requests had not left {patience} s after the last was due");
        }
        match self.connections.iter().filter(|connection| connection.owes()).count() {
            0 => Ok(true),
            unanswered => {
                bail!("{unanswered} requests without an answer {patience} s after the last one left")
            }
        }
    }

    /// Sends what was meant to leave until now.
    fn send_due(&mut self, now: Instant) -> Result<()> {
        let mut ready = Vec::new();
        match &mut self.source {
            Source::Closed { next, begin, gap } => {
                while *next < self.connections.len() && *begin + *gap * u32::try_from(*next)? <= now {
                    ready.push((*next, now));
                    *next += 1;
                }
            }
            Source::Open { schedule, idle, late } => {
                while let Some(intended) = schedule.due(now) {
                    match idle.pop_front() {
                        Some(at) => ready.push((at, intended)),
                        None => late.push_back(intended),
                    }
                }
            }
        }
        ready.into_iter().try_for_each(|(at, intended)| self.send(at, intended))
    }

    fn send(&mut self, at: usize, intended: Instant) -> Result<()> {
        let counts = (self.window.0..self.window.1).contains(&intended);
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let Some(target) = self.plan.targets.get(at % self.plan.targets.len()) else { return Ok(()) };
        connection.send(&target.request, intended, counts)
    }

    fn receive(&mut self, at: usize, buffer: &mut [u8]) -> Result<()> {
        let counting = self.phase == Phase::Window;
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let Some(bytes) = connection.receive(buffer, counting, &mut self.outcome)? else { return Ok(()) };
        let first = *self.answer.get_or_insert(bytes);
        if self.plan.equal_answers && first != bytes {
            bail!("an answer of {bytes} bytes where the first had {first}");
        }
        let spent = self.plan.each.is_some_and(|each| connection.sent >= each);
        match &mut self.source {
            Source::Closed { .. } if self.phase != Phase::Drain && !spent => self.send(at, Instant::now()),
            Source::Closed { .. } => Ok(()),
            Source::Open { idle, late, .. } => match late.pop_front() {
                Some(intended) => self.send(at, intended),
                None => {
                    idle.push_back(at);
                    Ok(())
                }
            },
        }
    }

    /// Sleeps until something arrives or is due.
    fn wait(&mut self, events: &mut Vec<Event>) -> Result<()> {
        signals::check()?;
        let edge = match self.phase {
            Phase::Warmup => self.window.0,
            Phase::Window => self.window.1,
            Phase::Drain => self.window.1 + self.plan.drain.unwrap_or_default(),
        };
        let due = match &self.source {
            _ if self.phase == Phase::Drain => edge,
            Source::Open { schedule, .. } => schedule.next().min(edge),
            Source::Closed { next, begin, gap } if *next < self.connections.len() => {
                edge.min(*begin + *gap * u32::try_from(*next)?)
            }
            Source::Closed { .. } => edge,
        };
        let left = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: Timespec::try_from(left)? };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        match epoll::wait(&self.epoll, spare_capacity(events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
