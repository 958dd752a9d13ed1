//! What the shaders become on every system: SPIR-V, Metal's language and HLSL, as wgpu would have them.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ScalarKind, TypeInner};

use super::cooperative::Cooperative;
use super::shader::{Extras, MAX_BATCH, Shader};

/// Buffers that Metal binds by number in one stage.
const METAL_BUFFERS: u8 = 31;

/// Threads and bytes of workgroup memory that every adapter has.
const THREADS: u32 = 256;
const WORKGROUP_BYTES: u32 = 16_384;

/// SPIR-V's number of `OpCooperativeMatrixMulAddKHR`, which has six words.
const COOPERATIVE_MULTIPLY: u32 = 4459;

/// What adapters may offer beyond the least.
const EXTRAS: [Extras; 2] = [
    Extras {
        subgroups: false,
        half: false,
    },
    Extras {
        subgroups: true,
        half: true,
    },
];

/// Every shader in every form that it has.
fn all() -> impl Iterator<Item = (Shader, Module, ModuleInfo)> {
    EXTRAS.into_iter().flat_map(|extras| {
        let shaders = Shader::all().into_iter();
        shaders
            // The others are as they were without extras.
            .filter(move |shader| {
                extras == Extras::default()
                    || shader.source(extras) != shader.source(Extras::default())
            })
            .map(move |shader| {
                let (module, info) = parsed(shader, extras);
                (shader, module, info)
            })
    })
}

/// A shader, valid without any capability beyond those that adapters are chosen by and these extras.
fn parsed(shader: Shader, extras: Extras) -> (Module, ModuleInfo) {
    let source = shader.source(extras);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{shader:?}: {}", error.emit_to_string(&source)));
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let kind = shader.cooperative();
    let half = kind.map_or(extras.half, |kind| kind.half);
    capabilities.set(Capabilities::SUBGROUP, extras.subgroups || kind.is_some());
    capabilities.set(Capabilities::SHADER_FLOAT16, half);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, kind.is_some());
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{shader:?}: {}", error.emit_to_string(&source)));
    (module, info)
}

/// Bindings of a module as (group, binding).
fn bindings(module: &Module) -> Vec<(u32, u32)> {
    let globals = module.global_variables.iter();
    globals
        .filter_map(|(_, global)| global.binding)
        .map(|binding| (binding.group, binding.binding))
        .collect()
}

#[test]
fn shaders_bind_what_they_say_and_fit_every_adapter() {
    for (shader, module, _) in all() {
        let binds = shader.layout();
        let mut said: Vec<(u32, u32)> = std::iter::once(0)
            .chain(binds.reads.iter().copied())
            .chain(binds.writes.iter().copied())
            .map(|binding| (0, binding))
            .collect();
        said.extend(binds.state.then_some((1, 0)));
        said.extend(binds.sequences.then_some((1, 0)));
        said.extend((0..binds.caches).map(|binding| (2, binding)));
        let mut found = bindings(&module);
        said.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, said, "{shader:?}");
        let storages = binds.reads.len() + binds.writes.len() + usize::from(binds.state);
        assert!(storages <= 8, "{shader:?} binds {storages} buffers");
        // Those for several caches are for adapters that bind as many.
        assert!(binds.caches <= 1 || binds.caches == MAX_BATCH as u32);
        assert!(binds.caches != 1 || storages < 8, "{shader:?}");

        let [entry] = &module.entry_points[..] else {
            panic!("{shader:?} has several entry points");
        };
        assert!(
            entry.workgroup_size.iter().product::<u32>() <= THREADS,
            "{shader:?}"
        );
        let workgroup: u32 = module
            .global_variables
            .iter()
            .filter(|(_, global)| global.space == AddressSpace::WorkGroup)
            .map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx()))
            .sum();
        // Devices are asked for the room that matrices take.
        let room = match shader.cooperative() {
            Some(_) => Cooperative::WORKGROUP_BYTES,
            None => WORKGROUP_BYTES,
        };
        assert!(workgroup <= room, "{shader:?} wants {workgroup} bytes");
    }
}

#[test]
fn every_shader_becomes_spirv() {
    for (shader, module, info) in all() {
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|error| panic!("{shader:?}: {error}"));
        // The low half of an instruction's first word says which it is.
        let multiplies = words
            .iter()
            .any(|word| word & 0xffff == COOPERATIVE_MULTIPLY && word >> 16 == 6);
        assert_eq!(multiplies, shader.cooperative().is_some(), "{shader:?}");
    }
}

#[test]
fn every_shader_becomes_hlsl() {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        ..hlsl::Options::default()
    };
    for (shader, module, info) in all() {
        // HLSL has no cooperative matrices, and naga no words for them; adapters of DirectX 12 offer none.
        if shader.cooperative().is_some() {
            continue;
        }
        let mut text = String::new();
        let pipeline = hlsl::PipelineOptions::default();
        let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None);
        assert!(written.is_ok(), "{shader:?}: {written:?}");
        assert!(text.contains("numthreads"), "{shader:?}");
    }
}

#[test]
fn every_shader_becomes_metal() {
    for (shader, module, info) in all() {
        // Metal's matrices have 8 rows and columns, as its adapters say.
        if shader.cooperative().is_some_and(|kind| kind.size != 8) {
            continue;
        }
        // Metal has no double precision and no 64-bit atomics.
        let wide = module.types.iter().any(|(_, ty)| match ty.inner {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => is_wide(scalar),
            TypeInner::Vector { scalar, .. } | TypeInner::Matrix { scalar, .. } => is_wide(scalar),
            _ => false,
        });
        assert!(!wide, "{shader:?} has a type that Metal lacks");
        // One slot after the other, and one more for the lengths of buffers, as wgpu numbers them.
        let mut resources = std::collections::BTreeMap::new();
        let mut slot = 0;
        for (_, global) in module.global_variables.iter() {
            if let Some(binding) = global.binding {
                let mutable = matches!(
                    global.space,
                    AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE)
                );
                let target = msl::BindTarget {
                    buffer: Some(slot),
                    mutable,
                    ..msl::BindTarget::default()
                };
                resources.insert(binding, target);
                slot += 1;
            }
        }
        assert!(slot < METAL_BUFFERS, "{shader:?} binds {slot} buffers");
        let entry = msl::EntryPointResources {
            resources,
            sizes_buffer: Some(slot),
            ..msl::EntryPointResources::default()
        };
        let options = msl::Options {
            lang_version: (2, 3),
            per_entry_point_map: [("main".to_owned(), entry)].into_iter().collect(),
            fake_missing_bindings: false,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions::default();
        let (text, translated) = msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{shader:?}: {error}"));
        assert!(translated.entry_point_names[0].is_ok(), "{shader:?}");
        assert!(text.contains("kernel void"), "{shader:?}");
        assert!(!text.contains("double"), "{shader:?}");
        let multiplies = text.contains("simdgroup_multiply_accumulate");
        assert_eq!(multiplies, shader.cooperative().is_some(), "{shader:?}");
        if let Some(kind) = shader.cooperative() {
            let factor = if kind.half { "half" } else { "float" };
            for matrix in [factor, "float"].map(|scalar| format!("simdgroup_{scalar}8x8")) {
                assert!(text.contains(&matrix), "{shader:?} has no {matrix}");
            }
        }
    }
}

fn is_wide(scalar: Scalar) -> bool {
    scalar.width > 4
        && scalar.kind != ScalarKind::AbstractInt
        && scalar.kind != ScalarKind::AbstractFloat
}
