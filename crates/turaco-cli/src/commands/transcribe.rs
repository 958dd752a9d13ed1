//! `turaco transcribe` and `turaco translate`.

use turaco::asr::Task;

use super::Context;
use super::plan::{Plan, Target};
use crate::args::TranscribeArgs;
use crate::engine::Recogniser;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::inputs;

/// Do it.
pub fn run(args: &TranscribeArgs, task: Task, context: &Context) -> Outcome {
    let plan = Plan::new(args, task)?;
    for warning in &plan.warnings {
        context.printer.warning(warning);
    }
    let inputs = inputs::collect(&args.input)?;
    plan.check_count(inputs.found.len())?;
    if let Target::Folder { path, .. } = &plan.target {
        files::create_folder(path)?;
    }
    let mut failures: Vec<Failure> = inputs.failures;
    for input in &inputs.found {
        match plan.reading.read(input, &context.control) {
            Ok(_) => {
                Recogniser::load(context)?;
            }
            Err(failure) => failures.push(failure),
        }
    }
    for failure in &failures {
        context.printer.error(failure);
    }
    Ok(if failures.is_empty() {
        Exit::Success
    } else {
        Exit::NoInput
    })
}
