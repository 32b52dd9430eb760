//! Where a model runs, as a body says it: `api_base` and `api_key` for one endpoint, or `endpoints`.
//!
//! A credential is write-only: an absent `api_key` keeps what is stored, null removes it. What is stored never
//! follows its endpoint to another host or port.

use std::sync::Arc;

use obleth_policy::snapshot::Secret;

use super::{IN_FLIGHT, WEIGHTS, body::Fields, error::ApiError, tenants::set};
use crate::{
    address::{AddressFault, ApiBase},
    resolve::{Hold, Names},
    store::{
        fault::StoreError,
        rows::{Credential, EndpointRow},
    },
};

/// What preferences of endpoints may be; lower is preferred.
pub(super) const PRIORITIES: std::ops::RangeInclusive<i64> = 0..=1000;
/// Name of an endpoint that states none.
const DEFAULT_NAME: &str = "default";

/// What a body says about a model's endpoints.
#[derive(Debug, Default)]
pub(super) enum Backend {
    /// Nothing.
    #[default]
    Keep,
    /// The model runs on the default upstream.
    Default,
    /// The short form: only address and credential of the one endpoint.
    Short(EndpointEdit),
    /// The long form: an endpoint by name.
    Named(String, EndpointEdit),
}

/// What a body says about one endpoint; what it does not say stays.
#[derive(Debug, Default)]
pub(super) struct EndpointEdit {
    api_base: Option<String>,
    api_key: Option<Option<Secret>>,
    priority: Option<u32>,
    weight: Option<u32>,
    enabled: Option<bool>,
    max_in_flight: Option<Option<u32>>,
    params: Params,
}

/// Where an endpoint's members stand in the body.
#[derive(Clone, Copy, Debug, Default)]
struct Params {
    api_base: &'static str,
    api_key: &'static str,
}

const SHORT: Params = Params { api_base: "api_base", api_key: "api_key" };
const LONG: Params = Params { api_base: "endpoints.api_base", api_key: "endpoints.api_key" };

impl Backend {
    pub(super) fn read(body: &mut Fields) -> Result<Self, ApiError> {
        let short = EndpointEdit {
            api_base: api_base(body, SHORT.api_base)?,
            api_key: body.maybe_secret("api_key")?,
            params: SHORT,
            ..EndpointEdit::default()
        };
        let is_short = short.api_base.is_some() || short.api_key.is_some();
        let Some(endpoints) = body.objects("endpoints", "endpoints.")? else {
            return Ok(if is_short { Self::Short(short) } else { Self::Keep });
        };
        if is_short {
            let message = "Give either `endpoints` or `api_base` and `api_key`.";
            return Err(ApiError::invalid("endpoints", message));
        }
        let mut endpoints = endpoints.into_iter();
        let Some(mut one) = endpoints.next() else { return Ok(Self::Default) };
        if endpoints.next().is_some() {
            return Err(ApiError::invalid("endpoints", "One endpoint per model in this version."));
        }
        let name = one.name("name")?.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let edit = EndpointEdit {
            api_base: api_base(&mut one, LONG.api_base)?,
            api_key: one.maybe_secret("api_key")?,
            priority: one.number("priority", PRIORITIES)?,
            weight: one.number("weight", WEIGHTS)?,
            enabled: one.flag("enabled")?,
            max_in_flight: one.maybe_number("max_in_flight", IN_FLIGHT)?,
            params: LONG,
        };
        one.finish()?;
        Ok(Self::Named(name, edit))
    }

    /// Resolves the name in the address, so that it is known when the first request comes. Keep the hold until
    /// the write has ended.
    ///
    /// # Errors
    /// It resolves to an address that is never used.
    pub(super) async fn check_name(&self, names: &Arc<Names>) -> Result<Option<Hold>, ApiError> {
        let (Self::Short(edit) | Self::Named(_, edit)) = self else { return Ok(None) };
        let Some(text) = &edit.api_base else { return Ok(None) };
        let wrong = |fault: AddressFault| unusable(edit.params.api_base, fault);
        names.check(&ApiBase::parse(text).map_err(wrong)?.target).await.map_err(wrong)
    }

    /// # Errors
    /// The endpoint would be taken away or without an address, or the stored credential would go to another host.
    pub(super) fn apply(
        self,
        rows: &mut Vec<EndpointRow>,
        has_default_upstream: bool,
    ) -> Result<(), StoreError> {
        match self {
            Self::Keep => {}
            // Staying on a default upstream that is gone is no change; moving to it is refused.
            Self::Default if rows.is_empty() => {}
            Self::Default => {
                rows.clear();
                require_backend(rows, has_default_upstream)?;
            }
            Self::Short(edit) => {
                let name = rows.first().map_or_else(|| DEFAULT_NAME.to_owned(), |row| row.name.clone());
                replace(rows, name, edit)?;
            }
            Self::Named(name, edit) => replace(rows, name, edit)?,
        }
        Ok(())
    }
}

/// What a model must have to be created.
///
/// # Errors
/// It names no endpoint, and there is no default upstream.
pub(super) fn require_backend(rows: &[EndpointRow], has_default_upstream: bool) -> Result<(), StoreError> {
    if rows.is_empty() && !has_default_upstream {
        return Err(no_address(SHORT.api_base));
    }
    Ok(())
}

/// Leaves one endpoint: the one of this name as edited, or a new one.
fn replace(rows: &mut Vec<EndpointRow>, name: String, edit: EndpointEdit) -> Result<(), StoreError> {
    let old = rows.iter().position(|row| row.name == name).map(|at| rows.swap_remove(at));
    let mut row = match (old, &edit.api_base) {
        (Some(row), _) => row,
        (None, Some(api_base)) => EndpointRow::draft(name, api_base.clone()),
        (None, None) => return Err(no_address(edit.params.api_base)),
    };
    if edit.api_key.is_none() && row.credential != Credential::None && moves(&row, edit.api_base.as_deref()) {
        return Err(credential_stays(edit.params.api_key));
    }
    let credential = edit.api_key.map(|secret| secret.map_or(Credential::None, Credential::Known));
    set(&mut row.api_base, edit.api_base);
    set(&mut row.credential, credential);
    set(&mut row.priority, edit.priority);
    set(&mut row.weight, edit.weight);
    set(&mut row.enabled, edit.enabled);
    set(&mut row.max_in_flight, edit.max_in_flight);
    *rows = vec![row];
    Ok(())
}

/// Whether the endpoint would be on another host or port. An address that cannot be read is another one.
fn moves(row: &EndpointRow, to: Option<&str>) -> bool {
    let target = |text| ApiBase::parse(text).ok().map(|base| base.target);
    to.is_some_and(|to| target(to).is_none_or(|to| target(&row.api_base) != Some(to)))
}

fn credential_stays(param: &str) -> StoreError {
    let message = format!(
        "The stored credential is not sent to another host or port. Give `{param}` again, or `null` for none."
    );
    StoreError::Invalid { param: param.to_owned(), message }
}

fn no_address(param: &str) -> StoreError {
    let message = "The model has no backend. Give `api_base`, as in `http://host:8000/v1`.".to_owned();
    StoreError::Invalid { param: param.to_owned(), message }
}

fn unusable(param: &str, fault: AddressFault) -> ApiError {
    ApiError::invalid(param, format!("`{param}` {fault}."))
}

fn api_base(body: &mut Fields, param: &'static str) -> Result<Option<String>, ApiError> {
    let Some(text) = body.text("api_base")? else { return Ok(None) };
    ApiBase::parse(&text).map_err(|fault| unusable(param, fault))?;
    Ok(Some(text))
}
