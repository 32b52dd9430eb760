//! Load of several tenants at once, and what each of them gets, token by token, by the client's own clock.
//!
//! One thread, one epoll, as the generator of `compare`. It differs in that every request has a length of its own,
//! tenants come and go, and requests are given up. A refused or broken answer ends the run.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};
use serde_json::json;

use super::{
    client::{Brought, Client},
    lengths::Lengths,
    seen::Seen,
};
use crate::{
    load::{Arrivals, Random, Schedule, chat_request},
    signals,
    subject::MODEL,
};

/// Most bytes one read brings.
const READ: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// The timer's place among the connections.
const TIMER: u64 = u64::MAX;

/// Load of all tenants.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: SocketAddr,
    /// Tokens per second of one answer.
    pub(super) tokens_per_second: f64,
    pub(super) demands: Vec<Demand>,
    /// How long all of it lasts; what is under way then is given up.
    pub(super) length: Duration,
    pub(super) seed: u64,
}

/// Load of one tenant.
#[derive(Debug)]
pub(super) struct Demand {
    pub(super) key: String,
    pub(super) connections: usize,
    /// Requests per second, Poisson; none: each connection asks again when it has its answer.
    pub(super) rate: Option<f64>,
    pub(super) lengths: Lengths,
    /// When it comes, from the begin of the run.
    pub(super) from: Duration,
    /// When it leaves, with all that is under way. None: it stays.
    pub(super) until: Option<Duration>,
    /// Connections to use that stand already.
    pub(super) ready: Vec<TcpStream>,
    pub(super) leaving: Option<Leaving>,
}

/// Users who do not wait for their answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Part of the requests that are given up.
    pub(super) part: f64,
    /// The latest moment after the request left, each one equally likely.
    pub(super) within: Duration,
}

/// A tenant's load under way.
struct Tenant {
    demand: Demand,
    present: Presence,
    /// The open loop's requests, clients without work, and work without a client.
    schedule: Option<Schedule>,
    idle: VecDeque<usize>,
    late: VecDeque<Instant>,
    random: Random,
    requests: u64,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Before,
    Here,
    Gone,
}

/// A place for a connection; it belongs to one tenant.
struct Place {
    tenant: usize,
    client: Option<Client>,
    /// Requests sent from here.
    sent: u64,
}

/// When a request is given up: the moment, the place, and which of its requests.
type Farewell = Reverse<(Instant, usize, u64)>;

pub(super) struct Generator {
    target: SocketAddr,
    rate_line: String,
    body: String,
    seed: u64,
    begin: Instant,
    end: Instant,
    epoll: OwnedFd,
    timer: OwnedFd,
    tenants: Vec<Tenant>,
    places: Vec<Place>,
    farewells: BinaryHeap<Farewell>,
}

impl Generator {
    /// Ready to begin at `begin`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new(plan: Plan, begin: Instant) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        let (mut tenants, mut places) = (Vec::new(), Vec::new());
        for (at, demand) in plan.demands.into_iter().enumerate() {
            let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(at as u64 + 1);
            let schedule = demand.rate.map(|rate| {
                Schedule::new(begin + demand.from, rate, Arrivals::Poisson, seed.rotate_left(17))
            });
            places.extend((0..demand.connections).map(|_| Place { tenant: at, client: None, sent: 0 }));
            tenants.push(Tenant {
                demand,
                present: Presence::Before,
                schedule,
                idle: VecDeque::new(),
                late: VecDeque::new(),
                random: Random::new(seed),
                requests: 0,
                seen: Seen::default(),
            });
        }
        Ok(Self {
            target: plan.target,
            rate_line: format!("x-sim-tps: {}", plan.tokens_per_second),
            body: json!({"model": MODEL, "stream": true, "messages": [{"role": "user", "content": "go"}]})
                .to_string(),
            seed: plan.seed,
            begin,
            end: begin + plan.length,
            epoll,
            timer,
            tenants,
            places,
            farewells: BinaryHeap::new(),
        })
    }

    /// Runs to the end, and gives what each tenant saw.
    ///
    /// # Errors
    /// A connection or an answer failed, or a signal came.
    pub(super) fn run(mut self) -> Result<Vec<Seen>> {
        let mut buffer = vec![0; READ];
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            if now >= self.end {
                return Ok(self.tenants.into_iter().map(|tenant| tenant.seen).collect());
            }
            for at in 0..self.tenants.len() {
                self.come_and_go(at, now)?;
                self.send_due(at, now)?;
            }
            self.give_up(now)?;
            self.wait(&mut events)?;
            for event in events.drain(..) {
                if event.data.u64() != TIMER {
                    self.receive(usize::try_from(event.data.u64())?, &mut buffer)?;
                }
            }
        }
    }

    fn come_and_go(&mut self, at: usize, now: Instant) -> Result<()> {
        let Some(tenant) = self.tenants.get_mut(at) else { return Ok(()) };
        let until = tenant.demand.until.map(|until| self.begin + until);
        let comes = tenant.present == Presence::Before && now >= self.begin + tenant.demand.from;
        let goes = tenant.present == Presence::Here && until.is_some_and(|until| now >= until);
        if comes {
            tenant.present = Presence::Here;
            let mut ready = std::mem::take(&mut tenant.demand.ready).into_iter();
            for place in self.places_of(at) {
                self.connect(place, ready.next())?;
                self.free(place, now)?;
            }
        }
        if goes {
            if let Some(tenant) = self.tenants.get_mut(at) {
                tenant.present = Presence::Gone;
                tenant.late.clear();
            }
            // A dropped socket leaves the epoll by itself.
            self.places.iter_mut().filter(|place| place.tenant == at).for_each(|place| place.client = None);
        }
        Ok(())
    }

    fn places_of(&self, tenant: usize) -> Vec<usize> {
        let of_tenant = self.places.iter().enumerate().filter(|(_, place)| place.tenant == tenant);
        of_tenant.map(|(at, _)| at).collect()
    }

    fn connect(&mut self, at: usize, ready: Option<TcpStream>) -> Result<()> {
        let client = match ready {
            Some(socket) => Client::over(socket)?,
            None => Client::connect(self.target)?,
        };
        epoll::add(&self.epoll, &client.socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        if let Some(place) = self.places.get_mut(at) {
            place.client = Some(client);
        }
        Ok(())
    }

    /// A client has nothing to do: it asks again, or waits for work.
    fn free(&mut self, at: usize, now: Instant) -> Result<()> {
        let Some(tenant) = self.places.get(at).and_then(|place| self.tenants.get_mut(place.tenant)) else {
            return Ok(());
        };
        let next = if tenant.schedule.is_none() { Some(now) } else { tenant.late.pop_front() };
        match next {
            Some(intended) => self.send(at, intended),
            None => {
                tenant.idle.push_back(at);
                Ok(())
            }
        }
    }

    /// Sends what was meant to leave until now.
    fn send_due(&mut self, at: usize, now: Instant) -> Result<()> {
        let mut ready = Vec::new();
        let Some(tenant) = self.tenants.get_mut(at) else { return Ok(()) };
        if tenant.present != Presence::Here {
            return Ok(());
        }
        while let Some(intended) = tenant.schedule.as_mut().and_then(|schedule| schedule.due(now)) {
            match tenant.idle.pop_front() {
                Some(place) => ready.push((place, intended)),
                None => tenant.late.push_back(intended),
            }
        }
        ready.into_iter().try_for_each(|(place, intended)| self.send(place, intended))
    }

    fn send(&mut self, at: usize, intended: Instant) -> Result<()> {
        let Some(place) = self.places.get_mut(at) else { return Ok(()) };
        let number = place.tenant;
        let Some(tenant) = self.tenants.get_mut(number) else { return Ok(()) };
        let tokens = tenant.demand.lengths.draw(&mut tenant.random);
        tenant.requests += 1;
        let id = format!("{:x}-{number}-{}", self.seed, tenant.requests);
        let lines =
            [self.rate_line.as_str(), &format!("x-sim-tokens: {tokens}"), &format!("x-request-id: {id}")];
        let request =
            chat_request(self.target, "/v1/chat/completions", &tenant.demand.key, &lines, &self.body);
        place.sent += 1;
        if let Some(leaving) = tenant.demand.leaving
            && tenant.random.uniform() <= leaving.part
        {
            let stays = leaving.within.mul_f64(tenant.random.uniform());
            self.farewells.push(Reverse((Instant::now() + stays, at, place.sent)));
        }
        place.client.as_mut().map_or(Ok(()), |client| client.send(&request, intended))
    }

    /// Closes what users do not wait for any longer, and lets them come again.
    fn give_up(&mut self, now: Instant) -> Result<()> {
        while let Some(Reverse((when, at, number))) = self.farewells.peek().copied()
            && when <= now
        {
            self.farewells.pop();
            let Some(place) = self.places.get_mut(at).filter(|place| place.sent == number) else { continue };
            if !place.client.as_ref().is_some_and(Client::is_busy) {
                continue;
            }
            place.client = None;
            let tenant = place.tenant;
            if let Some(tenant) = self.tenants.get_mut(tenant) {
                tenant.seen.given_up += 1;
            }
            self.connect(at, None)?;
            self.free(at, now)?;
        }
        Ok(())
    }

    fn receive(&mut self, at: usize, buffer: &mut [u8]) -> Result<()> {
        let Some(place) = self.places.get_mut(at) else { return Ok(()) };
        // An event of a socket that was closed since.
        let Some(client) = &mut place.client else { return Ok(()) };
        let Brought { tokens, first, complete } = client.receive(buffer)?;
        let now = Instant::now();
        let since = |moment: Instant| moment.saturating_duration_since(self.begin);
        if let Some(tenant) = self.tenants.get_mut(place.tenant) {
            tenant.seen.tokens.add(since(now), tokens);
            tenant.seen.finished.add(since(now), u32::from(complete));
            if let Some(first) = first {
                tenant.seen.begins(since(first.intended), now - first.intended, first.queue_ms);
            }
        }
        if complete { self.free(at, now) } else { Ok(()) }
    }

    /// Sleeps until something arrives or is due.
    fn wait(&mut self, events: &mut Vec<Event>) -> Result<()> {
        signals::check()?;
        let mut due = self.end;
        for Tenant { present, demand, schedule, .. } in &self.tenants {
            let next = match present {
                Presence::Before => Some(self.begin + demand.from),
                Presence::Here => schedule.as_ref().map(Schedule::next),
                Presence::Gone => None,
            };
            let goes = demand.until.filter(|_| *present != Presence::Gone).map(|until| self.begin + until);
            due = next.into_iter().chain(goes).fold(due, Instant::min);
        }
        if let Some(Reverse((when, ..))) = self.farewells.peek() {
            due = due.min(*when);
        }
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
