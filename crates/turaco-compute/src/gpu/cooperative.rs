//! Products of cooperative matrices: which of them an adapter offers, and whether its driver gets them right.
//!
//! The feature is experimental in wgpu, and drivers are young: before a device uses matrices, it multiplies some and compares
//! with what comes out on the processor. What came of it is kept in a file, by the version of the driver.

use std::fmt;
use std::path::PathBuf;

use bytemuck::cast_slice_mut;
use half::f16;

use super::context::{Context, grid};
use super::shader::{COMMON, Extras, LINEAR, Shader, TILE};
use super::shader_cache::hash;
use super::template::Template;
use super::weights::GpuMatrix;
use crate::cpu::pool::Pool;
use crate::device::{HostMatrix, WeightType};
use crate::dtype::DType;
use crate::error::Result;

/// Square matrices that a subgroup multiplies together, with sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cooperative {
    /// Rows and columns, 8 or 16.
    pub size: u32,
    /// Whether factors are f16, or f32.
    pub half: bool,
    /// Threads of a workgroup: four of the smallest subgroups.
    pub threads: u32,
    /// Threads of a subgroup where matrices are imitated by functions, to test what is around them everywhere.
    pub imitated: Option<u32>,
}

impl Cooperative {
    /// Workgroup memory that the largest of them takes, in bytes.
    pub const WORKGROUP_BYTES: u32 = 19_456;

    /// Those that adapters have: Apple's, those of cards, and f16 for others.
    #[cfg(test)]
    pub const KINDS: [Self; 3] = [Self::of(8, false), Self::of(16, true), Self::of(8, true)];

    #[cfg(test)]
    const fn of(size: u32, half: bool) -> Self {
        Self {
            size,
            half,
            threads: 128,
            imitated: None,
        }
    }

    /// What an adapter offers of what there are shaders for, the best first.
    pub fn offered(adapter: &wgpu::Adapter, extras: Extras) -> Vec<Self> {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let missing = !extras.subgroups
            || !(adapter.features()).contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
            || limits.max_compute_workgroup_storage_size < Self::WORKGROUP_BYTES;
        if missing {
            return Vec::new();
        }
        let smallest_subgroup = match info.backend {
            // What wgpu says there is a guess; they have 32 threads, or 64 in a few old machines.
            wgpu::Backend::Metal => 32,
            _ => info.subgroup_min_size.clamp(4, 64),
        };
        choice(&adapter.cooperative_matrix_properties(), extras.half)
            .map(|(size, half)| Self {
                size,
                half,
                threads: 4 * smallest_subgroup,
                imitated: None,
            })
            .collect()
    }

    /// Whether products with such weights are made of them. f32 stays f32.
    pub fn takes(self, weights: WeightType) -> bool {
        !self.half || weights != WeightType::F32
    }

    /// The weights that it is tried with.
    fn tried_with(self) -> WeightType {
        if self.half {
            WeightType::F16
        } else {
            WeightType::F32
        }
    }

    /// The shader.
    pub fn template(self, weights: WeightType, windows: bool) -> Template {
        let Self { size, half, .. } = self;
        let factor = if half { "f16" } else { "f32" };
        let matrix = |scalar, role| format!("coop_mat{size}x{size}<{scalar}, {role}>");
        let imitated = self.imitated.is_some();
        let template = Template::new()
            .extension("f16", half)
            .extension("wgpu_cooperative_matrix", !imitated)
            .number("SIZE", size)
            .number("THREADS", self.threads)
            .number("LANES", self.imitated.unwrap_or(1))
            // Quads of inputs that are staged at a time, and values between what is staged for two of them: 16 bytes.
            .number("DEPTH", if half { 8 } else { 4 })
            .number("PADDING", if half { 8 } else { 4 })
            .word("Factor", factor)
            .repeat("4", 4)
            .repeat("down", 32 / size)
            .repeat_across("across", 32 / size)
            .when("mapped", true)
            .when("scaled", half)
            .when("matrices", !imitated)
            .when("imitated", imitated);
        let template = match imitated {
            true => template.part(include_str!("shaders/matrices_imitated.wgsl")),
            false => template
                .word("RowMatrix", &matrix(factor, "A"))
                .word("OutputMatrix", &matrix(factor, "B"))
                .word("SumMatrix", &matrix("f32", "C")),
        };
        template
            .part(COMMON)
            .part(LINEAR)
            .weights(weights)
            .inputs(windows)
            .part(include_str!("shaders/matmul_cooperative.wgsl"))
    }
}

impl fmt::Display for Cooperative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, half, .. } = self;
        let factors = if *half { "f16" } else { "f32" };
        write!(f, "{size}x{size} of {factors}")
    }
}

/// The sizes of what can be used, and whether factors are f16. Factors of f32 come first: who offers them multiplies
/// them as fast, and nothing is rounded.
fn choice(
    properties: &[wgpu::CooperativeMatrixProperties],
    with_f16: bool,
) -> impl Iterator<Item = (u32, bool)> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let has = move |size, scalar| {
        properties.iter().any(|properties| {
            [properties.m_size, properties.n_size, properties.k_size] == [size; 3]
                && (properties.ab_type, properties.cr_type) == (scalar, F32)
        })
    };
    [(16, false), (8, false), (16, true), (8, true)]
        .into_iter()
        .filter(move |&(size, half)| match half {
            true => with_f16 && has(size, F16),
            false => has(size, F32),
        })
}

/// What came of trying the matrices of an adapter.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// The first that multiply as they should.
    pub chosen: Option<Cooperative>,
    /// Those before them, and why not.
    pub refused: Vec<String>,
}

impl Trials {
    /// Try one after the other; the first `wrong` of them fail whatever they do.
    pub fn make(context: &Context, verdicts: Option<&Verdicts>, wrong: usize) -> Self {
        let mut trials = Self::default();
        for (nth, &kind) in context.matrices.iter().enumerate() {
            let Some(reason) = judge(context, verdicts, kind, nth < wrong) else {
                trials.chosen = Some(kind);
                break;
            };
            let refused = format!("cooperative matrices of {kind}: {reason}");
            trials.refused.push(refused);
        }
        trials
    }
}

/// What is known of a driver's matrices, in files.
pub(super) struct Verdicts {
    path: PathBuf,
    driver: String,
}

/// What stands in a file of matrices that are right, and while they are being tried.
const RIGHT: &str = "right";
const UNFINISHED: &str = "unfinished";

impl Verdicts {
    /// Those for a driver, in files that begin with a path.
    pub fn new(path: PathBuf, driver: &str) -> Self {
        let driver = driver.replace('\n', " ");
        Self { path, driver }
    }

    /// The file for matrices.
    fn file(&self, kind: Cooperative) -> PathBuf {
        let factors = if kind.half { "f16" } else { "f32" };
        self.path
            .with_extension(format!("{}x{factors}.matrices", kind.size))
    }

    /// What a verdict is about; of another driver or shader it says nothing.
    fn subject(&self, kind: Cooperative) -> String {
        let text = kind.template(kind.tried_with(), false).finish();
        format!("{}, shader {:016x}", self.driver, hash(text.as_bytes()))
    }

    fn forget(&self, kind: Cooperative) {
        let _ = std::fs::remove_file(self.file(kind));
    }

    fn read(&self, kind: Cooperative) -> Option<String> {
        let text = std::fs::read_to_string(self.file(kind)).ok()?;
        let (subject, verdict) = text.split_once('\n')?;
        (subject == self.subject(kind)).then(|| verdict.trim_end().to_owned())
    }

    /// Without a file, the next start tries again; that is all.
    fn write(&self, kind: Cooperative, verdict: &str) {
        let path = self.file(kind);
        if let Some(folder) = path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let text = format!("{}\n{verdict}\n", self.subject(kind));
        // Under a name of its own first: another process may be reading.
        let unfinished = path.with_extension(std::process::id().to_string());
        let written = std::fs::write(&unfinished, text);
        if written
            .and_then(|()| std::fs::rename(&unfinished, path))
            .is_err()
        {
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

/// Why matrices are not used: try them, unless that has been done before. A driver that crashed or hung is not tried again.
fn judge(
    context: &Context,
    verdicts: Option<&Verdicts>,
    kind: Cooperative,
    wrong: bool,
) -> Option<String> {
    let Some(verdicts) = verdicts else {
        return reason_of(tried(context, kind, wrong));
    };
    match verdicts.read(kind).as_deref() {
        Some(RIGHT) => return None,
        Some(UNFINISHED) => {
            return Some(format!(
                "a trial of them did not end; without {} they are tried again",
                verdicts.file(kind).display()
            ));
        }
        Some(reason) => return Some(reason.to_owned()),
        None => {}
    }
    verdicts.write(kind, UNFINISHED);
    let verdict = tried(context, kind, wrong);
    match &verdict {
        Ok(None) => verdicts.write(kind, RIGHT),
        Ok(Some(reason)) => verdicts.write(kind, reason),
        // Matrices may be what it died of.
        Err(_) if context.check().is_err() => {}
        Err(_) => verdicts.forget(kind),
    }
    reason_of(verdict)
}

fn reason_of(verdict: Result<Option<String>>) -> Option<String> {
    verdict.unwrap_or_else(|error| Some(error.to_string()))
}

/// What is wrong with matrices; an error if they could not be tried.
fn tried(context: &Context, kind: Cooperative, wrong: bool) -> Result<Option<String>> {
    let difference = match difference(context, kind)? {
        _ if wrong => 1.0,
        difference => difference,
    };
    // Factors of f16 have 11 bits; sums have 24, in any order.
    let allowed = if kind.half { 1e-3 } else { 1e-5 };
    Ok((difference > allowed).then(|| {
        format!("products were wrong by {difference:.1e} of what was added up, rounding explains {allowed:.0e}")
    }))
}

/// Sizes of the trial: several tiles, and no multiple of anything.
const ROWS: usize = 75;
const INPUTS: usize = 83;
const OUTPUTS: usize = 70;

/// The largest difference between products of an adapter and of the processor, relative to the sum of their parts.
fn difference(context: &Context, kind: Cooperative) -> Result<f32> {
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u16 as f32 / 32_768.0 - 1.0;
    let weights: Vec<f16> = (0..OUTPUTS * INPUTS)
        .map(|i| f16::from_f32(noise(i)))
        .collect();
    // Rows of all magnitudes, far beyond f16.
    let x: Vec<f32> = (0..ROWS * INPUTS)
        .map(|i| noise(i + 7_919) * f32::powi(10.0, (i / INPUTS % 17) as i32 - 8))
        .collect();
    let source = HostMatrix {
        dtype: DType::F16,
        rows: OUTPUTS,
        cols: INPUTS,
        bytes: bytemuck::cast_slice(&weights),
        row_scales: None,
        storage: None,
    };
    let weight_type = kind.tried_with();
    let matrix = GpuMatrix::new(context, &Pool::new(1), &[source], weight_type)?;
    let kernel = context.kernel(Shader::Matmul {
        weights: weight_type,
        windows: false,
        cooperative: Some(kind),
    })?;
    let mut found = vec![0.0_f32; ROWS * OUTPUTS];
    for part in &matrix.parts {
        // In the order of `shaders/linear.wgsl`; of a convolution, a norm and a choice there is nothing.
        let mut words = [0_u32; 64];
        let sizes = [ROWS, INPUTS, part.rows, matrix.panel_words].map(|size| size as u32);
        words[..4].copy_from_slice(&sizes);
        words[5] = INPUTS as u32;
        words[6] = part.first_row as u32;
        words[7] = OUTPUTS as u32;
        words[SCALE_WORD] = 1.0_f32.to_bits();
        words[WEIGHTS_SCALE_WORD] = part.scale.to_bits();
        let one = |bytes, usage, what| context.buffer_of(std::iter::once(bytes), usage, what);
        let storage = wgpu::BufferUsages::STORAGE;
        let params = one(
            bytemuck::cast_slice(&words),
            wgpu::BufferUsages::UNIFORM,
            "parameters of a trial",
        )?;
        let inputs = one(bytemuck::cast_slice(&x), storage, "inputs of a trial")?;
        let usage = storage | wgpu::BufferUsages::COPY_SRC;
        let out = context.buffer(4 * found.len() as u64, usage, "results of a trial")?;
        let nothing = &context.nothing;
        let bound = [&params, &part.weights, &inputs, nothing, nothing, &out];
        let bindings = [0].iter().chain(kernel.binds.reads);
        let entries: Vec<_> = bindings
            .chain(kernel.binds.writes)
            .zip(bound)
            .map(|(&binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = (context.device).create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.layout,
            entries: &entries,
        });
        let mut encoder = context.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &group, &[]);
        let [across, down] = grid(ROWS.div_ceil(TILE) * part.rows.div_ceil(TILE));
        pass.dispatch_workgroups(across, down, 1);
        drop(pass);
        context.submit(encoder);
        context.finish(&|| kernel.label.clone())?;
        let mut part_found = vec![0.0_f32; found.len()];
        context.fetch(&out, 0, cast_slice_mut(&mut part_found))?;
        let columns = part.first_row..part.first_row + part.rows;
        for (to, from) in (found.chunks_mut(OUTPUTS)).zip(part_found.chunks(OUTPUTS)) {
            to[columns.clone()].copy_from_slice(&from[columns.clone()]);
        }
    }
    let products = x
        .chunks(INPUTS)
        .flat_map(|x| weights.chunks(INPUTS).map(move |weights| (x, weights)));
    let apart = (found.iter().zip(products)).map(|(&found, (x, weights))| {
        let parts = || {
            x.iter()
                .zip(weights)
                .map(|(&x, &weight)| f64::from(x) * f64::from(weight))
        };
        let difference = f64::from(found) - parts().sum::<f64>();
        (difference.abs() / parts().map(f64::abs).sum::<f64>()) as f32
    });
    // NaN is a difference.
    let apart = apart.map(|d| if d.is_nan() { f32::INFINITY } else { d });
    Ok(apart.fold(0.0, f32::max))
}

/// Where the parameters of a linear map have what multiplies its outputs, and what multiplied its weights.
const SCALE_WORD: usize = 13;
const WEIGHTS_SCALE_WORD: usize = 33;

#[cfg(test)]
mod tests;
