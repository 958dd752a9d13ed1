//! Segments to bytes: txt, srt, vtt, tsv, csv, lrc, json.
