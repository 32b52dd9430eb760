//! Where a model runs, as a body says it: `api_base` and `api_key` for one endpoint, or `endpoints`.
//!
//! A credential is write-only: an absent `api_key` keeps what is stored, null removes it.

use obleth_policy::snapshot::Secret;

use super::{IN_FLIGHT, WEIGHTS, body::Fields, error::ApiError, tenants::set};
use crate::{
    address::{AddressFault, ApiBase},
    resolve::Names,
    store::{
        fault::StoreError,
        rows::{Credential, EndpointRow},
    },
};

/// What preferences of endpoints may be; lower is preferred.
const PRIORITIES: std::ops::RangeInclusive<i64> = 0..=1000;
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
    /// Where `api_base` stands in the body.
    param: &'static str,
}

impl Backend {
    pub(super) fn read(body: &mut Fields) -> Result<Self, ApiError> {
        let short = EndpointEdit {
            api_base: api_base(body, "api_base")?,
            api_key: body.maybe_secret("api_key")?,
            param: "api_base",
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
            api_base: api_base(&mut one, "endpoints.api_base")?,
            api_key: one.maybe_secret("api_key")?,
            priority: one.number("priority", PRIORITIES)?,
            weight: one.number("weight", WEIGHTS)?,
            enabled: one.flag("enabled")?,
            max_in_flight: one.maybe_number("max_in_flight", IN_FLIGHT)?,
            param: "endpoints.api_base",
        };
        one.finish()?;
        Ok(Self::Named(name, edit))
    }

    /// Resolves the name in the address, so that it is known when the first request comes.
    ///
    /// # Errors
    /// It resolves to an address that is never used.
    pub(super) async fn check_name(&self, names: &Names) -> Result<(), ApiError> {
        let (Self::Short(edit) | Self::Named(_, edit)) = self else { return Ok(()) };
        let Some(text) = &edit.api_base else { return Ok(()) };
        let wrong = |fault: AddressFault| unusable(edit.param, fault);
        names.check(&ApiBase::parse(text).map_err(wrong)?.target).await.map_err(wrong)
    }

    /// # Errors
    /// There would be no endpoint at all.
    pub(super) fn apply(
        self,
        rows: &mut Vec<EndpointRow>,
        has_default_upstream: bool,
    ) -> Result<(), StoreError> {
        match self {
            Self::Keep => {}
            Self::Default => rows.clear(),
            Self::Short(edit) => {
                let name = rows.first().map_or_else(|| DEFAULT_NAME.to_owned(), |row| row.name.clone());
                replace(rows, name, edit)?;
            }
            Self::Named(name, edit) => replace(rows, name, edit)?,
        }
        if rows.is_empty() && !has_default_upstream {
            return Err(no_address("api_base"));
        }
        Ok(())
    }
}

/// Leaves one endpoint: the one of this name as edited, or a new one.
fn replace(rows: &mut Vec<EndpointRow>, name: String, edit: EndpointEdit) -> Result<(), StoreError> {
    let old = rows.iter().position(|row| row.name == name).map(|at| rows.swap_remove(at));
    let mut row = match (old, &edit.api_base) {
        (Some(row), _) => row,
        (None, Some(api_base)) => EndpointRow::draft(name, api_base.clone()),
        (None, None) => return Err(no_address(edit.param)),
    };
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
