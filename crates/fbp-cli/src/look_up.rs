//! `fbp models`, `fbp layers` and `fbp completions`: what there is to choose from.

use clap::{Args, Command};
use clap_complete::Shell;
use fbp_models::catalogue::{self, LayerEntry};
use fbp_models::{NetworkSpec, zoo};
use fbp_train::TrainError;
use serde::Serialize;

use crate::common::{CommonArgs, Out, say};
use crate::error::CliError;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// List the networks that can be chosen by name, or print the description of one
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example, to begin a network of your own:\n  cargo fbp models\n  \
    cargo fbp models simple-cnn-mnist-v2 > net.toml\n  \
    cargo fbp pretrain --model net.toml --data fashion-mnist --out c.safetensors")]
pub(crate) struct ModelsArgs {
    /// Print the description of this network in TOML
    name: Option<String>,
}

/// List the kinds of layers that a description of a network can have, or explain one
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp layers conv2d")]
pub(crate) struct LayersArgs {
    /// Explain this kind, with its keys and an example
    kind: Option<String>,
}

/// Print completions of commands and options for a shell
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp completions bash > ~/.local/share/bash-completion/completions/fbp")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// A network of the list.
#[derive(Serialize)]
struct ModelRow {
    name: &'static str,
    input: [usize; 3],
    classes: usize,
    parameters: usize,
    stages: Vec<String>,
}

impl ModelRow {
    fn of(name: &'static str) -> Result<Self, CliError> {
        let NetworkSpec { input, classes, ref stages, .. } = zoo::spec(name)?;
        let stages = stages.iter().map(|stage| stage.name.clone()).collect();
        Ok(Self { name, input, classes, parameters: zoo::spec(name)?.plan()?.parameter_count(), stages })
    }
}

pub(crate) fn models(args: &ModelsArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    if let Some(name) = &args.name {
        let spec = zoo::spec(name)?;
        common.write_json(&spec)?;
        return say(out, format_args!("{}", spec.to_toml()?.trim_end()));
    }
    let rows: Vec<ModelRow> = zoo::names().iter().map(|name| ModelRow::of(name)).collect::<Result<_, _>>()?;
    common.write_json(&rows)?;
    say(out, format_args!("{:24} {:>9} {:>7} {:>10}  stages", "name", "input", "classes", "parameters"))?;
    for ModelRow { name, input: [c, h, w], classes, parameters, stages } in rows {
        let input = format!("{c}×{h}×{w}");
        let stages = folded(&stages, " ", 55);
        say(out, format_args!("{name:24} {input:>9} {classes:>7} {parameters:>10}  {stages}"))?;
    }
    say(out, format_args!("\n`fbp models NAME` prints a description; --model takes a name or such a file."))
}

#[derive(Serialize)]
struct LayerRow {
    kind: &'static str,
    about: &'static str,
    keys: Vec<KeyRow>,
    example: String,
}

#[derive(Serialize)]
struct KeyRow {
    name: &'static str,
    required: bool,
    default: Option<&'static str>,
    about: &'static str,
}

impl LayerRow {
    fn of(entry: &LayerEntry) -> Self {
        let key = |key: &catalogue::LayerKey| KeyRow {
            name: key.name,
            required: key.default.is_none(),
            default: key.default.filter(|value| !value.is_empty()),
            about: key.about,
        };
        let LayerEntry { kind, about, .. } = *entry;
        Self { kind, about, keys: entry.keys.iter().map(key).collect(), example: entry.example() }
    }
}

pub(crate) fn layers(args: &LayersArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let Some(kind) = &args.kind else {
        common.write_json(&catalogue::layers().iter().map(LayerRow::of).collect::<Vec<_>>())?;
        for entry in catalogue::layers() {
            let about: Vec<String> = entry.about.split(' ').map(str::to_owned).collect();
            say(out, format_args!("{:20} {}", entry.kind, folded(&about, " ", 21)))?;
            if !entry.keys.is_empty() {
                let keys: Vec<String> = entry.keys.iter().map(short).collect();
                say(out, format_args!("{:23}{}", "", folded(&keys, ", ", 23)))?;
            }
        }
        return say(
            out,
            format_args!("\nKeys with a value or in brackets may be left out. `fbp layers KIND` tells more."),
        );
    };
    let entry = catalogue::layer(kind).ok_or_else(|| {
        let known: Vec<&str> = catalogue::layers().iter().map(|entry| entry.kind).collect();
        TrainError::UnknownChoice { setting: "layer", value: kind.clone(), known: known.join(", ") }
    })?;
    common.write_json(&LayerRow::of(entry))?;
    say(out, format_args!("{}: {}\n", entry.kind, entry.about))?;
    for key in entry.keys {
        let default = match key.default {
            None => "must be given".to_owned(),
            Some("") => "may be left out".to_owned(),
            Some(value) => format!("default {value}"),
        };
        say(out, format_args!("  {:18} {} ({default})", key.name, key.about))?;
    }
    let gap = if entry.keys.is_empty() { "" } else { "\n" };
    say(out, format_args!("{gap}A network with such a layer:\n\n{}", entry.example().trim_end()))
}

/// Words in lines that fit into a terminal, the second line and all others indented.
fn folded(words: &[String], between: &str, indent: usize) -> String {
    let (mut text, mut column) = (String::new(), indent);
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            text.push_str(between);
            column += between.len();
            if column + word.chars().count() > WIDTH {
                text.truncate(text.trim_end().len());
                text.push('\n');
                text.push_str(&" ".repeat(indent));
                column = indent;
            }
        }
        text.push_str(word);
        column += word.chars().count();
    }
    text
}

/// `padding = 0`, or the name alone where a value must be given.
fn short(key: &catalogue::LayerKey) -> String {
    match key.default {
        None => key.name.to_owned(),
        Some("") => format!("[{}]", key.name),
        Some(value) => format!("{} = {value}", key.name),
    }
}

#[derive(Serialize)]
struct CompletionsRow<'a> {
    shell: String,
    script: &'a str,
}

pub(crate) fn completions(
    args: &CompletionsArgs,
    mut program: Command,
    common: &CommonArgs,
    out: Out<'_>,
) -> Result<(), CliError> {
    // Into memory first: the generator has no way to report a closed pipe.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut program, "fbp", &mut text);
    let script = String::from_utf8_lossy(&text);
    common.write_json(&CompletionsRow { shell: args.shell.to_string(), script: &script })?;
    say(out, format_args!("{}", script.trim_end()))
}
