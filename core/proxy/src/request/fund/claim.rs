//! What a request may come to, of every measure.

use obleth_policy::{
    limit::{Measure, Unit, Want},
    price::{Prices, Quantity},
    route::Route,
};

use crate::{
    request::{admit::COMPLETION_TOKENS, ask::Asked},
    shard::Shard,
};

/// What an answer comes to at most where neither its client nor its model says so, in tokens.
const UNSAID_OUTPUT: u64 = 32 * 1024;

/// A request whose client names no limit reserves at most one part in so many of what a budget has left …
const OPEN_PART: u64 = 16;
/// … but so many tokens, where they are left.
const OPEN_LEAST: u64 = 1024;

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    prices: Prices,
    /// Answers that it asks for.
    choices: u64,
    /// What the input comes to, and what it may come to.
    likely_input: u64,
    most_input: u64,
    /// What all answers will come to together.
    likely_output: u64,
    /// The most that each answer may have.
    pub(super) output: u64,
    /// Its client has not said how long an answer may be.
    pub(super) is_open: bool,
    /// The backend could read another limit in it than we do.
    pub(super) is_ambiguous: bool,
    /// A limit of more tokens than this may be one that the backend refuses.
    pub(super) most_cap: u64,
}

impl Claim {
    pub(super) fn of(shard: &Shard, route: Route, asked: &Asked<'_>) -> Self {
        let model = asked.model;
        let (pool, bytes) = (model.pool, asked.bytes());
        let context = model.max_model_len.map(u64::from);
        let foresight = shard.credits.foresight.borrow();
        let most_input = foresight.most_input(pool, bytes).min(context.unwrap_or(u64::MAX)).max(1);
        let likely_input = shard.guess_tokens(pool, bytes).clamp(1, most_input);
        let said = match route {
            Route::Embeddings => Some(0),
            Route::Completions => Some(asked.output_limit.unwrap_or(COMPLETION_TOKENS)),
            _ => asked.output_limit,
        };
        // Not less what the input takes of it, which is a guess.
        let output = said.into_iter().chain(context).min().unwrap_or(UNSAID_OUTPUT);
        let (prices, choices) = (model.prices, asked.choices);
        Self {
            prices,
            choices,
            likely_input,
            most_input,
            likely_output: foresight.likely_output(pool, output.saturating_mul(choices)),
            output,
            is_open: said.is_none(),
            is_ambiguous: asked.says_two_limits
                || route == Route::Completions && asked.output_limit.is_none(),
            most_cap: context.map_or(u64::MAX, |context| context.saturating_sub(most_input).max(1)),
        }
    }

    /// How long an answer may be whose client has not said it, by what is left of a budget: a part of it, so that one such
    /// request does not keep all the others out.
    pub(super) fn modest(&self, measure: Measure, left: u64) -> u64 {
        let part = self.affordable(measure, left / OPEN_PART, self.output);
        let short = self.affordable(measure, left, self.output.min(OPEN_LEAST));
        part.max(short)
    }

    /// What it would like to reserve of a measure if its answers have at most `output` tokens, and what it can do with.
    pub(super) fn want(&self, measure: Measure, output: u64) -> Option<Want> {
        let need = self.need(measure, output)?;
        Some(Want { need, least: self.least(measure).unwrap_or(need).min(need) })
    }

    /// The former alone: all that a request pays for whose limits have credits here.
    pub(super) fn need(&self, measure: Measure, output: u64) -> Option<u64> {
        match (measure.is_budget(), measure.unit()) {
            (true, _) => self.most(measure, output),
            (false, Unit::Requests) => Some(1),
            (false, _) => Some(self.likely_input.saturating_add(self.likely_output)),
        }
    }

    /// The latter: what the shortest answer worth sending would come to.
    pub(super) fn least(&self, measure: Measure) -> Option<u64> {
        let output = if measure.is_budget() { self.least_output() } else { self.output };
        self.need(measure, output)
    }

    /// Tokens of the shortest answer worth sending.
    pub(super) fn least_output(&self) -> u64 {
        self.output.min(1)
    }

    /// The most that it comes to; `None` for money where something has no price.
    fn most(&self, measure: Measure, output: u64) -> Option<u64> {
        let output = output.saturating_mul(self.choices);
        match measure.unit() {
            Unit::MicroUsd => {
                let cost = |cached_input| {
                    let used =
                        Quantity { input: self.most_input, cached_input, output, ..Quantity::default() };
                    self.prices.cost(&used).map(|cost| cost.0)
                };
                // A list may ask more for what comes from a cache.
                match self.prices.cached_input > self.prices.input {
                    true => Some(cost(0)?.max(cost(self.most_input)?)),
                    false => cost(0),
                }
            }
            _ => Some(self.most_input.saturating_add(output)),
        }
    }

    /// The longest answers, of at most `output` tokens each, that so much pays for.
    pub(super) fn affordable(&self, measure: Measure, free: u64, output: u64) -> u64 {
        let fits = |tokens| self.most(measure, tokens).is_none_or(|cost| cost <= free);
        let (mut fit, mut too_long) = (0, output.saturating_add(1));
        while too_long.saturating_sub(fit) > 1 {
            let middle = fit.midpoint(too_long);
            if fits(middle) { fit = middle } else { too_long = middle }
        }
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices {
        version: 1,
        input: Some(1_000_000),
        cached_input: None,
        output: Some(2_000_000),
        image: None,
        second: None,
        character: None,
    };

    fn claim(prices: Prices) -> Claim {
        let (likely_input, most_input, likely_output) = (30, 40, 50);
        let (is_open, is_ambiguous, most_cap) = (false, false, u64::MAX);
        let output = 100;
        Claim {
            prices,
            choices: 2,
            likely_input,
            most_input,
            likely_output,
            output,
            is_open,
            is_ambiguous,
            most_cap,
        }
    }

    #[test]
    fn rates_reserve_what_is_likely_and_budgets_the_most_of_every_answer() {
        let claim = claim(PRICES);
        let want = |measure| claim.want(measure, claim.output);
        assert_eq!(want(Measure::RequestsPerMinute), Some(Want::just(1)));
        assert_eq!(want(Measure::TokensPerMinute), Some(Want::just(80)));
        assert_eq!(want(Measure::DailyTokens), Some(Want { need: 240, least: 42 }));
        assert_eq!(want(Measure::LifetimeMicroUsd), Some(Want { need: 440, least: 44 }));
    }

    #[test]
    fn an_answer_is_as_long_as_what_is_left_pays_for() {
        let claim = claim(PRICES);
        for free in 0..600 {
            let tokens = claim.affordable(Measure::MonthlyTokens, free, 100);
            assert_eq!(tokens, (free.saturating_sub(40) / 2).min(100), "{free} tokens");
            let money = claim.affordable(Measure::MonthlyMicroUsd, free, 100);
            assert_eq!(money, (free.saturating_sub(40) / 4).min(100), "{free} micro-USD");
        }
    }

    #[test]
    fn who_names_no_limit_reserves_a_part_of_what_is_left_and_some_tokens_at_least() {
        let open = Claim { output: 100_000, is_open: true, ..claim(PRICES) };
        let modest = |left| open.modest(Measure::DailyTokens, left);
        assert_eq!(modest(10_000_000), 100_000, "plenty: as long as it fits the model");
        assert_eq!(modest(1_600_000), (100_000 - 40) / 2);
        assert_eq!(modest(16_000), 1024);
        assert_eq!(modest(1_040), 500);
        assert_eq!(modest(30), 0);
    }

    #[test]
    fn what_has_no_price_asks_for_no_money_and_what_is_free_for_none() {
        let unpriced = claim(Prices::default());
        assert_eq!(unpriced.want(Measure::DailyMicroUsd, 100), None);
        let free = claim(Prices { input: Some(0), output: Some(0), ..Prices::default() });
        assert_eq!(free.want(Measure::DailyMicroUsd, 100), Some(Want::just(0)));
    }

    #[test]
    fn a_cache_that_costs_more_is_reckoned_with() {
        let dear = claim(Prices { cached_input: Some(3_000_000), ..PRICES });
        assert_eq!(dear.want(Measure::DailyMicroUsd, 100), Some(Want { need: 520, least: 124 }));
    }

    #[test]
    fn a_request_without_output_is_all_or_nothing() {
        let embedding = Claim { output: 0, ..claim(PRICES) };
        assert_eq!(embedding.least_output(), 0);
        assert_eq!(embedding.want(Measure::DailyTokens, 0), Some(Want::just(40)));
    }
}
