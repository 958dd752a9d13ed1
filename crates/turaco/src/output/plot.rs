//! A picture of sound: its waveform, and its spectrogram below.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// Size of the picture.
const WIDTH: usize = 1000;
const WAVE_HEIGHT: usize = 160;
const SPECTRUM_HEIGHT: usize = 256;
const MARGIN: usize = 44;

/// Samples of a spectrum's window, at most twice as many as the rows that are drawn.
const WINDOW: usize = 1024;

/// Decibels from the loudest to what is drawn as silence.
const RANGE: f32 = 80.0;

/// An SVG picture of mono samples: extremes of the waveform, and spectra of 1024 samples under a Hann window from 0 Hz (below) to half the
/// sample rate, 80 dB from dark to light.
pub fn plot_sound(samples: &[f32], sample_rate: u32) -> String {
    let seconds = samples.len() as f64 / f64::from(sample_rate.max(1));
    let (width, height) = (
        WIDTH + 2 * MARGIN,
        WAVE_HEIGHT + SPECTRUM_HEIGHT + 3 * MARGIN,
    );
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let middle = MARGIN + WAVE_HEIGHT / 2;
    let mut path = String::new();
    for column in 0..WIDTH {
        let (from, to) = (
            column * samples.len() / WIDTH,
            (column + 1) * samples.len() / WIDTH,
        );
        let part = &samples[from..to.max(from + 1).min(samples.len()).max(from)];
        let lowest = part.iter().copied().fold(0.0, f32::min);
        let highest = part.iter().copied().fold(0.0, f32::max);
        let y = |value: f32| middle as f32 - value * WAVE_HEIGHT as f32 / 2.0;
        let _ = write!(
            path,
            "M{} {:.1}V{:.1}",
            MARGIN + column,
            y(highest) - 0.5,
            y(lowest) + 0.5
        );
    }
    let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"#1f6feb\" fill=\"none\"/>");
    let top = 2 * MARGIN + WAVE_HEIGHT;
    let _ = writeln!(
        svg,
        "<image x=\"{MARGIN}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{SPECTRUM_HEIGHT}\" preserveAspectRatio=\"none\" \
         href=\"data:image/png;base64,{}\"/>",
        STANDARD.encode(png(&spectrogram(samples), WIDTH, SPECTRUM_HEIGHT))
    );
    let bottom = top + SPECTRUM_HEIGHT;
    for tick in 0..=5 {
        let x = MARGIN + WIDTH * tick / 5;
        let time = seconds * tick as f64 / 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{time:.2} s</text>",
            bottom + 18
        );
    }
    for tick in 0..=4 {
        let y = bottom - SPECTRUM_HEIGHT * tick / 4;
        let frequency = f64::from(sample_rate) / 2000.0 * tick as f64 / 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{frequency:.0} kHz</text>",
            MARGIN - 4,
            y + 4
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Brightness `[SPECTRUM_HEIGHT, WIDTH]`, the highest frequency first.
fn spectrogram(samples: &[f32]) -> Vec<u8> {
    let fft = FftPlanner::new().plan_fft_forward(WINDOW);
    let hann = |at: usize| 0.5 - 0.5 * (std::f32::consts::TAU * at as f32 / WINDOW as f32).cos();
    let mut scratch = vec![Complex::default(); fft.get_inplace_scratch_len()];
    let mut window = vec![Complex::default(); WINDOW];
    let mut decibels = vec![f32::NEG_INFINITY; WIDTH * SPECTRUM_HEIGHT];
    for column in 0..WIDTH {
        let center = (2 * column + 1) * samples.len() / (2 * WIDTH);
        for (at, value) in window.iter_mut().enumerate() {
            let sample = (center + at)
                .checked_sub(WINDOW / 2)
                .and_then(|at| samples.get(at));
            *value = Complex::new(sample.copied().unwrap_or(0.0) * hann(at), 0.0);
        }
        fft.process_with_scratch(&mut window, &mut scratch);
        for row in 0..SPECTRUM_HEIGHT {
            let each = WINDOW / 2 / SPECTRUM_HEIGHT;
            let first = (SPECTRUM_HEIGHT - 1 - row) * each;
            let power = window[first..first + each]
                .iter()
                .map(Complex::norm_sqr)
                .fold(0.0, f32::max);
            decibels[row * WIDTH + column] = 10.0 * power.max(1e-12).log10();
        }
    }
    let loudest = decibels.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let bright = |value: &f32| (255.0 * (1.0 + (value - loudest) / RANGE).clamp(0.0, 1.0)) as u8;
    decibels.iter().map(bright).collect()
}

/// A grey picture as PNG (RFC 2083): header, deflated rows without filters, end.
fn png(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut rows = Vec::with_capacity((width + 1) * height);
    for row in pixels.chunks_exact(width) {
        rows.push(0);
        // Dark is loud, as in print.
        rows.extend(row.iter().map(|value| 255 - value));
    }
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    header.extend([8, 0, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let data = miniz_oxide::deflate::compress_to_vec_zlib(&rows, 6);
    for (name, content) in [(b"IHDR", &header[..]), (b"IDAT", &data), (b"IEND", &[])] {
        out.extend((content.len() as u32).to_be_bytes());
        let start = out.len();
        out.extend(name);
        out.extend(content);
        let checksum = crc32(&out[start..]);
        out.extend(checksum.to_be_bytes());
    }
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_a_line() {
        let tone: Vec<f32> = (0..24_000)
            .map(|n| (n as f32 * std::f32::consts::TAU * 3000.0 / 24_000.0).sin())
            .collect();
        let picture = spectrogram(&tone);
        // 3 of 12 kHz: a quarter of the height from below.
        let column: Vec<u8> = (0..SPECTRUM_HEIGHT)
            .map(|row| picture[row * WIDTH + WIDTH / 2])
            .collect();
        let loudest = (0..SPECTRUM_HEIGHT).max_by_key(|&row| column[row]).unwrap();
        assert!(
            (SPECTRUM_HEIGHT * 3 / 4 - 2..=SPECTRUM_HEIGHT * 3 / 4).contains(&loudest),
            "{loudest}"
        );
        assert!(column[10] < 60);
    }

    #[test]
    fn nothing_can_be_drawn_too() {
        for samples in [&[][..], &[0.5], &[f32::MAX, -1.0, 0.0]] {
            let svg = plot_sound(samples, 24_000);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        }
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
