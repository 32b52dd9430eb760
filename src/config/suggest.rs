//! The name that somebody probably meant.

/// Names less like than this are no help. 0 is nothing in common, 1 is equal.
const LIKE_ENOUGH: f64 = 0.7;

/// The one of `known` that is closest to `asked`, if any is close.
pub(crate) fn closest<'n>(asked: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|name| (strsim::normalized_damerau_levenshtein(asked, name), name))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["cores", "proxy_listen", "admin_listen"];
        assert_eq!(closest("croes", known.into_iter()), Some("cores"));
        assert_eq!(closest("proxy_listne", known.into_iter()), Some("proxy_listen"));
        assert_eq!(closest("flavour", known.into_iter()), None);
    }
}
