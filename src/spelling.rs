//! Suggestions for unknown names.

/// The longest name that is compared, bytes: the comparison takes quadratic time.
const MAX_LENGTH: usize = 64;

/// The known name that is most like `name`, if one is: at most half of its characters differ.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let known = known.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known));
    let alike = known.filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2);
    alike.min().map(|(_, known)| known)
}

/// The unknown `field` or `variant` in a message of serde's, and the known ones: "unknown field
/// `x`, expected one of `a`, `b`".
pub fn unknown<'m>(
    what: &str,
    message: &'m str,
) -> Option<(&'m str, impl Iterator<Item = &'m str> + use<'m>)> {
    let (_, rest) = message.split_once(&format!("unknown {what} `"))?;
    let (name, rest) = rest.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_or_none() {
        let known = ["deadline_ms", "max_turns", "max_cost"];
        let table = [
            ("deadline", Some("deadline_ms")),
            ("dead_line_ms", Some("deadline_ms")),
            ("max_turn", Some("max_turns")),
            ("maxcost", Some("max_cost")),
            ("zzz", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        let long = "max_turns".repeat(20);
        assert_eq!(nearest(&long, [long.as_str()]), None, "too long to compare");
    }

    #[test]
    fn unknown_names_are_read_from_serdes_messages() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Fields {
            a: u8,
            bc: u8,
        }
        let error = serde_json::from_str::<Fields>(r#"{"bd": 1}"#).err();
        let message = error.map(|error| error.to_string()).unwrap_or_default();
        let (name, known) = unknown("field", &message)
            .map_or(("", Vec::new()), |(name, known)| (name, known.collect::<Vec<_>>()));
        assert_eq!((name, known), ("bd", vec!["a", "bc"]));
        assert!(unknown("variant", &message).is_none());
        assert!(unknown("field", "missing field `a`").is_none());
    }
}
