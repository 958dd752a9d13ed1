//! Spans of recorded steps.

use turaco_compute::trace::{Detail, Recorder, Span};
use turaco_compute::{Bindings, Epilogue, Error, Step, StepBuilder, Value, WeightType};

use crate::support::{Numbers, all_devices, matrix};

/// Two layers of a linear map and an activation; the second one is a stage.
fn step(device: &turaco_compute::Device) -> Step {
    let weight = matrix(device, 8, 8, &Numbers::new(1).take(64));
    let mut builder = StepBuilder::new(device).named("whole");
    let x = builder.input(3, 8);
    let layer = |builder: &mut StepBuilder, x: Value| -> Result<Value, Error> {
        let x = builder.linear(x, &weight, Epilogue::default())?;
        builder.scope("empty", |_| Ok::<(), Error>(()))?;
        builder.scope("norm", |builder| Ok::<_, Error>(builder.softmax(x)))
    };
    let x = builder
        .scope("layer.0", |builder| layer(builder, x))
        .unwrap();
    let x = builder.stage("last", |builder| layer(builder, x)).unwrap();
    builder.output(x);
    builder.finish().unwrap()
}

fn spans(step: &mut Step, detail: Detail) -> Vec<Span> {
    let mut recorder = Recorder::start(detail).expect("the only recorder of this thread");
    let x = Numbers::new(2).take(24);
    step.run(&mut Bindings {
        inputs: &[&x],
        ids: &[],
        slots: &mut [],
    })
    .unwrap();
    recorder.take()
}

#[test]
fn scopes_nest_as_they_were_recorded() {
    for device in all_devices() {
        let mut step = step(&device);
        for (detail, expected) in [
            (Detail::Stages, &["whole", "last"][..]),
            (
                Detail::Layers,
                &["whole", "layer.0", "norm", "last", "norm"],
            ),
            (
                Detail::Operations,
                &[
                    "whole", "layer.0", "linear", "norm", "softmax", "last", "linear", "norm",
                    "softmax",
                ],
            ),
        ] {
            let spans = spans(&mut step, detail);
            let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
            assert_eq!(names, expected, "{device:?}");
            for span in &spans[1..] {
                assert!(spans[0].contains(span));
            }
            // Two products of 3 rows with 8 x 8 weights, counted once.
            let work = spans[0].work.as_ref().expect("a step knows its work");
            assert_eq!(work.operations, [(WeightType::F32, 2 * 2 * 3 * 8 * 8)]);
            assert!(work.weight_bytes >= 2 * 64 * 4);
            assert_eq!(**work, *step.work());
            assert!(spans[1..].iter().all(|span| span.work.is_none()));
        }
    }
}

#[test]
fn results_do_not_depend_on_the_recording() {
    for device in all_devices() {
        let mut step = step(&device);
        let x = Numbers::new(2).take(24);
        let bindings = &mut Bindings {
            inputs: &[&x],
            ids: &[],
            slots: &mut [],
        };
        step.run(bindings).unwrap();
        let plain = step.output(0).unwrap().to_vec();
        let recorder = Recorder::start(Detail::Operations);
        step.run(bindings).unwrap();
        drop(recorder);
        assert_eq!(step.output(0).unwrap(), plain);
    }
}
