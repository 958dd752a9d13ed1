//! The languages of Whisper: codes, English names and aliases.

/// Codes and English names in the order of the language tokens; the first 99 belong to all multilingual models, the
/// hundredth came with large-v3. `jw` is the models' own code for Javanese.
pub const LANGUAGES: [(&str, &str); 100] = [
    ("en", "english"),
    ("zh", "chinese"),
    ("de", "german"),
    ("es", "spanish"),
    ("ru", "russian"),
    ("ko", "korean"),
    ("fr", "french"),
    ("ja", "japanese"),
    ("pt", "portuguese"),
    ("tr", "turkish"),
    ("pl", "polish"),
    ("ca", "catalan"),
    ("nl", "dutch"),
    ("ar", "arabic"),
    ("sv", "swedish"),
    ("it", "italian"),
    ("id", "indonesian"),
    ("hi", "hindi"),
    ("fi", "finnish"),
    ("vi", "vietnamese"),
    ("he", "hebrew"),
    ("uk", "ukrainian"),
    ("el", "greek"),
    ("ms", "malay"),
    ("cs", "czech"),
    ("ro", "romanian"),
    ("da", "danish"),
    ("hu", "hungarian"),
    ("ta", "tamil"),
    ("no", "norwegian"),
    ("th", "thai"),
    ("ur", "urdu"),
    ("hr", "croatian"),
    ("bg", "bulgarian"),
    ("lt", "lithuanian"),
    ("la", "latin"),
    ("mi", "maori"),
    ("ml", "malayalam"),
    ("cy", "welsh"),
    ("sk", "slovak"),
    ("te", "telugu"),
    ("fa", "persian"),
    ("lv", "latvian"),
    ("bn", "bengali"),
    ("sr", "serbian"),
    ("az", "azerbaijani"),
    ("sl", "slovenian"),
    ("kn", "kannada"),
    ("et", "estonian"),
    ("mk", "macedonian"),
    ("br", "breton"),
    ("eu", "basque"),
    ("is", "icelandic"),
    ("hy", "armenian"),
    ("ne", "nepali"),
    ("mn", "mongolian"),
    ("bs", "bosnian"),
    ("kk", "kazakh"),
    ("sq", "albanian"),
    ("sw", "swahili"),
    ("gl", "galician"),
    ("mr", "marathi"),
    ("pa", "punjabi"),
    ("si", "sinhala"),
    ("km", "khmer"),
    ("sn", "shona"),
    ("yo", "yoruba"),
    ("so", "somali"),
    ("af", "afrikaans"),
    ("oc", "occitan"),
    ("ka", "georgian"),
    ("be", "belarusian"),
    ("tg", "tajik"),
    ("sd", "sindhi"),
    ("gu", "gujarati"),
    ("am", "amharic"),
    ("yi", "yiddish"),
    ("lo", "lao"),
    ("uz", "uzbek"),
    ("fo", "faroese"),
    ("ht", "haitian creole"),
    ("ps", "pashto"),
    ("tk", "turkmen"),
    ("nn", "nynorsk"),
    ("mt", "maltese"),
    ("sa", "sanskrit"),
    ("lb", "luxembourgish"),
    ("my", "myanmar"),
    ("bo", "tibetan"),
    ("tl", "tagalog"),
    ("mg", "malagasy"),
    ("as", "assamese"),
    ("tt", "tatar"),
    ("haw", "hawaiian"),
    ("ln", "lingala"),
    ("ha", "hausa"),
    ("ba", "bashkir"),
    ("jw", "javanese"),
    ("su", "sundanese"),
    ("yue", "cantonese"),
];

/// Other names by which a language is known.
const ALIASES: [(&str, &str); 13] = [
    ("burmese", "my"),
    ("castilian", "es"),
    ("flemish", "nl"),
    ("haitian", "ht"),
    ("jv", "jw"),
    ("letzeburgesch", "lb"),
    ("mandarin", "zh"),
    ("moldavian", "ro"),
    ("moldovan", "ro"),
    ("panjabi", "pa"),
    ("pushto", "ps"),
    ("sinhalese", "si"),
    ("valencian", "ca"),
];

/// The code of a language given by code, English name or alias, in any letter case.
pub fn language_code(language: &str) -> Option<&'static str> {
    let language = language.trim().to_lowercase();
    LANGUAGES
        .iter()
        .find(|(code, name)| language == *code || language == *name)
        .map(|(code, _)| *code)
        .or_else(|| {
            ALIASES
                .iter()
                .find(|(alias, _)| language == *alias)
                .map(|(_, code)| *code)
        })
}

/// As [`language_code`], and also for tags with a country or script behind the code, as systems name their locales: `zh-CN`,
/// `en_US.UTF-8`, `sr-Latn-RS`.
pub fn language_of_tag(tag: &str) -> Option<&'static str> {
    if let Some(code) = language_code(tag) {
        return Some(code);
    }
    let tag = tag.trim().split(['.', '@']).next().unwrap_or_default();
    let (code, rest) = tag.split_once(['-', '_'])?;
    let is_part = |part: &str| {
        (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_tag = (2..=3).contains(&code.len()) && rest.split(['-', '_']).all(is_part);
    is_tag.then(|| language_code(code)).flatten()
}

/// The English name, in lower case, of a language code.
pub fn language_name(code: &str) -> Option<&'static str> {
    LANGUAGES
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_names_and_aliases_are_found() {
        for (given, code) in [
            ("en", "en"),
            ("English", "en"),
            (" GERMAN ", "de"),
            ("Mandarin", "zh"),
            ("haitian creole", "ht"),
            ("haitian", "ht"),
            ("jv", "jw"),
            ("yue", "yue"),
            ("cantonese", "yue"),
        ] {
            assert_eq!(language_code(given), Some(code), "{given}");
        }
        assert_eq!(language_code("klingon"), None);
        assert_eq!(language_code("zh-CN"), None);
        assert_eq!(language_code(""), None);
        assert_eq!(language_name("jw"), Some("javanese"));
        assert_eq!(language_name("english"), None);
    }

    #[test]
    fn tags_of_locales_are_languages() {
        for (tag, code) in [
            ("zh-CN", Some("zh")),
            ("ZH_hant_tw", Some("zh")),
            ("en_US.UTF-8", Some("en")),
            ("de-DE@euro", Some("de")),
            ("yue-HK", Some("yue")),
            ("English", Some("en")),
            ("xx-YY", None),
            ("english-us", None),
            ("en-", None),
            ("en-\u{e9}\u{e9}", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(language_of_tag(tag), code, "{tag}");
        }
    }
}
