//! Python's notions of white space, float text and JSON, where they show in results that have to equal the reference's.

use serde_json::Value;

/// `str.isspace`: Unicode white space and the four ASCII separators U+001C to U+001F.
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`: the words between white space.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `repr(float)`: the fewest digits that read back as the same number, with a decimal point or an exponent.
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust finds the same number of digits. Where two such numbers are equally near, Python takes the even one, which
    // is also what rounding to that many digits gives.
    let mut scientific = format!("{value:e}");
    let digits = scientific
        .bytes()
        .take_while(|&byte| byte != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    let rounded = format!("{value:.*e}", digits - 1);
    if rounded.parse() == Ok(value) {
        scientific = rounded;
    }
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let Ok(exponent) = exponent.parse::<i32>() else {
        return scientific;
    };
    if !(-4..16).contains(&exponent) {
        return format!(
            "{mantissa}e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            exponent.abs()
        );
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    match usize::try_from(exponent) {
        Err(_) => format!(
            "{sign}0.{}{digits}",
            "0".repeat(exponent.unsigned_abs() as usize - 1)
        ),
        Ok(exponent) if digits.len() <= exponent + 1 => {
            format!(
                "{sign}{digits}{}.0",
                "0".repeat(exponent + 1 - digits.len())
            )
        }
        Ok(exponent) => format!("{sign}{}.{}", &digits[..=exponent], &digits[exponent + 1..]),
    }
}

/// `json.dumps(value, ensure_ascii=False)`: a space behind every comma and colon.
pub(crate) fn dump_json(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(dump_json).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(object) => {
            let pairs = object.iter().map(|(key, value)| {
                let key = Value::String(key.clone());
                format!("{key}: {}", dump_json(value))
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, format_float)
        }
        // Both escape the same characters in the same way.
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_as_in_python() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.2549, "-0.2549"),
            (231468076051695.63, "231468076051695.62"),
            (-2189219876935063.3, "-2189219876935063.2"),
            (120.5, "120.5"),
            (1e15, "1000000000000000.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (7.62e-10, "7.62e-10"),
            (5e-324, "5e-324"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(format_float(value), text);
        }
    }

    #[test]
    fn json_looks_as_in_python() {
        let text = r#"{"b":[1,2.0,-3e20,{}],"a":"Zürich \"x\"\n\u0001","c":[true,null,[]]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            dump_json(&value),
            r#"{"b": [1, 2.0, -3e+20, {}], "a": "Zürich \"x\"\n\u0001", "c": [true, null, []]}"#
        );
    }

    #[test]
    fn strips_what_python_strips() {
        assert_eq!(strip("\u{1c}\u{3000} a b\u{85}\u{1f}\n"), "a b");
        assert_eq!(strip("\u{200b}a\u{feff}"), "\u{200b}a\u{feff}");
        assert_eq!(strip(" \t"), "");
    }
}
