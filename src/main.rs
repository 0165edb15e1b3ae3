//! Arguments → configuration → dispatch → exit code. See [`sidelight`] for the picture.

mod commands;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use serde_json::json;
use sidelight::cli::{
    Cli, Command, Evidence, Labels, Log, Model, ModelAdd, OodFit, Probe, Profile, Results, Settings, Studies, Train,
    Users,
};
use sidelight::config::{self, Config, ConfigError};
use sidelight::deliver::Peer;
use sidelight::infer::OodMethod;
use sidelight::phantom::{PhantomOptions, World};
use sidelight::serve::Control;
use sidelight::store::{Files, Fsck, Resend};
use sidelight::train::TrainOptions;
use sidelight::{dicom, pixels, serve};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use commands::ood::OodFitOptions;
use commands::{
    analyse, audit, check, cohort, evidence, folder, gradients, labels, models, ood, people, prior, probe, profiles,
    results, studies, tools, validate,
};

/// Wrong use: arguments or configuration.
const WRONG_USE: u8 = 2;

/// Threads that may block beside one for each association …
///
/// An object that arrives keeps one that waits for its peer, which may take long: one object for each association, and
/// for each of 16 uploads over HTTP. There are more threads than that, so that all other work goes on: objects whose
/// data set is complete (up to 7 more for each association, by its window of 8, and 8 more for each upload), syncs,
/// looks at files and for names. That ends by itself, and what is more than there are threads waits its turn.
const SPARE_THREADS: usize = 128;
/// … and the least of both together, tokio's default. They are started when they are needed.
const BLOCKING_THREADS_MIN: usize = 512;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let wrong_use = error.downcast_ref::<ConfigError>().is_some();
            eprintln!("sidelight: {error:#}");
            if wrong_use { ExitCode::from(WRONG_USE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let settings = cli.settings;
    match cli.command {
        // Before anything else: a worker reads no configuration and starts no runtime.
        Command::Worker => Ok(pixels::worker_main()),
        Command::Version(table) => version(table.json),
        Command::Serve => {
            let (config, filter_logs) = load_and_log(&settings, true)?;
            let runtime = runtime(config.node.associations_max)?;
            let ended = runtime.block_on(serve_until_signal(config, settings, filter_logs));
            // Loading models cannot be interrupted, and nobody waits for it after a signal.
            runtime.shutdown_timeout(LAST_WAIT);
            ended
        }
        Command::Check(options) => {
            let config = load(&settings, false)?;
            runtime(0)?.block_on(check::run(&config, options.network, options.table.json))
        }
        Command::Analyse(options) => {
            let method = options.explain.iter().map(|method| ("explain.method".to_owned(), method.clone()));
            let mut settings = settings;
            settings.overrides.extend(method);
            let config = load(&settings, true)?;
            let options = analyse::Options {
                paths: options.paths,
                out: options.out,
                results: options.results,
                with_posteriors: options.with_posteriors,
                evidence: options.evidence,
                disclose: options.disclose,
                explain: options.explain.is_some(),
                map_objects: options.dicom,
                json: options.table.json,
            };
            runtime(0)?.block_on(analyse::run(config, options))
        }
        Command::Studies(command) => {
            let config = load(&settings, false)?;
            runtime(0)?.block_on(async {
                match command {
                    Studies::List { state, limit, table } => studies::list(&config, state, limit, table.json).await,
                    Studies::Show { study, table } => studies::show(&config, &study, table.json).await,
                    Studies::Resend { study, destination, failed } => {
                        let (study, destination) = (study.as_ref(), destination.as_deref());
                        studies::resend(&config, Resend { study, destination, failed_only: failed }).await
                    }
                    Studies::Requeue { study } => studies::requeue(&config, &study).await,
                    Studies::Close { study, complete, incomplete } => {
                        let verdict = (complete || incomplete).then_some(complete);
                        studies::close(&config, &study, verdict).await
                    }
                    Studies::Purge { study, force } => studies::purge(&config, &study, force).await,
                    Studies::Destinations(table) => studies::destinations(&config, table.json).await,
                }
            })
        }
        Command::Results(Results::Import(options)) => {
            let config = load(&settings, false)?;
            let import = results::Import { file: &options.file, model: &options.model, dry: options.dry_run };
            runtime(0)?.block_on(results::import(&config, import, options.table.json))
        }
        Command::Audit(options) => {
            let config = load(&settings, false)?;
            runtime(0)?.block_on(audit::run(&config, &options))
        }
        Command::Labels(Labels::Import(options)) => {
            let config = load(&settings, false)?;
            runtime(0)?.block_on(labels::import(&config, &options))
        }
        Command::Probe(command) => match command {
            Probe::List(table) => probe::list(table.json),
            Probe::Report(options) => probe::report(&options),
            Probe::Merge(options) => probe::merge(&options.dirs, &options.out),
            Probe::Run(options) => {
                // A table of posteriors needs no model.
                let config = options.cohort.is_some().then(|| load(&settings, true)).transpose()?;
                runtime(0)?.block_on(probe::run(config.as_ref(), &options))
            }
        },
        Command::Users(Users::Hash) => people::hash(),
        Command::Log(command) => {
            let config = load(&settings, false)?;
            match command {
                Log::List(options) => runtime(0)?.block_on(people::list(&config, &options)),
                Log::Verify(options) => runtime(0)?.block_on(people::verify(&config, &options)),
            }
        }
        Command::Backup(options) => {
            let config = load(&settings, false)?;
            let files = if options.copy { Files::Copied } else { Files::Linked };
            runtime(0)?.block_on(folder::backup(&config, &options.dir, files, options.table.json))
        }
        Command::Fsck(options) => {
            let config = load(&settings, false)?;
            let wanted = Fsck { repair: options.repair, digests: options.digests };
            runtime(0)?.block_on(folder::fsck(&config, wanted, options.table.json))
        }
        Command::Model(command) => {
            let config = load(&settings, false)?;
            match command {
                Model::List(table) => models::list(&config, table.json),
                Model::Add(options) => {
                    let ModelAdd { weights, card, name, golden } = options;
                    let import = models::Add { weights, card, name, golden };
                    models::add(&config, import)
                }
                Model::Verify { name, require_golden, table } => {
                    runtime(1)?.block_on(models::verify(&config, name.as_deref(), require_golden, table.json))
                }
                Model::Golden { name, from } => models::golden(&config, &name, from.as_deref()),
                Model::OodFit(OodFit { name, paths, method, percentile, table }) => {
                    let energy = method == "energy";
                    let method = if energy { OodMethod::Energy } else { OodMethod::Mahalanobis };
                    let options = OodFitOptions { name, paths, method, percentile, json: table.json };
                    runtime(1)?.block_on(ood::fit(&config, options))
                }
                Model::Export { name, out } => models::export(&config, &name, &out),
            }
        }
        Command::Phantom(options) => {
            load(&settings, false)?;
            let world = match (&options.world, &options.world_file) {
                (Some(name), _) => World::named(name).context("the argument parser knows the worlds")?,
                (None, file) => cohort::world(file.as_deref().context("the argument parser asks for a world")?)?,
            };
            let mut phantoms = PhantomOptions::new(world, options.patients, options.seed);
            if let Some(size) = options.size {
                phantoms.size = (size.rows, size.columns);
            }
            cohort::phantom(&phantoms, &options.out)
        }
        Command::Validate(options) => {
            load(&settings, false)?;
            validate::run(&validate::Options {
                out: options.out,
                long: options.long,
                seed: options.seed,
                worlds: options.worlds,
                only: options.only,
                json: options.table.json,
            })
        }
        Command::Train(options) => {
            let config = load(&settings, false)?;
            train_by(&config, options)
        }
        Command::Profile(Profile::Prior { out, trained, studies_min }) => {
            let config = load(&settings, false)?;
            runtime(0)?.block_on(prior::estimate(&config, &out, trained.as_deref(), studies_min))
        }
        Command::Profile(Profile::Fit(options)) => {
            let config = load(&settings, false)?;
            let bootstrap = options.bootstrap.unwrap_or(1000) as usize;
            let fit = cohort::fit_options(config.node.name.clone(), bootstrap, options.seed, config.risk.delta);
            runtime(0)?.block_on(cohort::fit(&config, &options, &fit))
        }
        Command::Profile(Profile::Show { profile, table }) => cohort::show(&profile, table.json),
        Command::Profile(Profile::Approve { id, key, anyway }) => {
            profiles::approve(&load(&settings, false)?, id.as_deref(), key.as_deref(), anyway)
        }
        Command::Profile(Profile::Check { profile, table }) => {
            profiles::check(&load(&settings, false)?, profile.as_deref(), table.json)
        }
        Command::Profile(Profile::Diff { old, new, table }) => profiles::diff(&old, &new, table.json),
        Command::Profile(Profile::Key { out }) => profiles::key(&out),
        Command::Profile(Profile::Sign { profile, key }) => profiles::sign(&profile, &key),
        Command::Evidence(command) => {
            let config = load(&settings, false)?;
            match command {
                Evidence::CoMovement(options) => runtime(0)?.block_on(evidence::co_movement(&config, &options)),
                Evidence::Leakage(options) => evidence::leakage(&config, &options),
                Evidence::Gradients(options) => gradients::run(&config, &options),
                Evidence::Features(options) => gradients::features(&config, &options),
                Evidence::Show { file, table } => evidence::show(&file, table.json),
            }
        }
        Command::Echo(options) => {
            let config = load(&settings, false)?;
            let peer = Peer { ae_title: options.peer.ae_title, host: options.peer.host, port: options.peer.port };
            let calling = options.calling.unwrap_or_else(|| config.node.ae_title.clone());
            runtime(0)?.block_on(tools::echo(&config, &peer, &calling, options.tls))
        }
        Command::Normalise(options) => {
            let config = load(&settings, false)?;
            let normalise = tools::Normalise {
                file: options.file,
                contract: options.contract,
                size: options.size,
                npy: options.npy,
                png: options.png,
            };
            runtime(0)?.block_on(tools::normalise(&config, &normalise, options.table.json))
        }
    }
}

/// The configuration, with logging set up by it.
fn load(settings: &Settings, to_serve: bool) -> anyhow::Result<Config> {
    load_and_log(settings, to_serve).map(|(config, _)| config)
}

fn load_and_log(settings: &Settings, to_serve: bool) -> anyhow::Result<(Config, SetFilter)> {
    let load = if to_serve { config::load_to_serve } else { config::load };
    let config = load(settings.config.as_deref(), config::environment(), &settings.overrides)?;
    let filter_logs = log_by(&config.log);
    Ok((config, filter_logs))
}

/// Sets the filter of the log while the program runs.
type SetFilter = Box<dyn Fn(&str) + Send + Sync>;

/// As configured; the rasteriser warns of every stroke without length, which an interval of a point has, and of pictures,
/// which are drawn without it.
fn log_filter(configured: &str) -> EnvFilter {
    EnvFilter::new(format!("tiny_skia=error,resvg=error,{configured}"))
}

/// Logs go to standard error; `RUST_LOG` overrides the configured filter.
fn log_by(log: &config::Log) -> SetFilter {
    let from_environment = EnvFilter::try_from_default_env().ok();
    let fixed = from_environment.is_some();
    let filter = from_environment.unwrap_or_else(|| log_filter(&log.filter));
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    // A second call (there is none) would keep the first logger. A filter that cannot be set any more stays.
    if log.json {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |filter| {
            if !fixed {
                let _ = handle.reload(log_filter(filter));
            }
        })
    } else {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |filter| {
            if !fixed {
                let _ = handle.reload(log_filter(filter));
            }
        })
    }
}

/// A runtime for so many associations: see [`SPARE_THREADS`].
fn runtime(associations: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.enable_all().max_blocking_threads((associations + SPARE_THREADS).max(BLOCKING_THREADS_MIN));
    builder.build().context("the runtime cannot be started")
}

/// How long the process waits for threads whose work nobody wants any more.
const LAST_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs the node until SIGTERM or Ctrl-C; SIGHUP has it load its configuration again.
async fn serve_until_signal(config: Config, settings: Settings, filter_logs: SetFilter) -> anyhow::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let executable = std::env::current_exe().context("this program's own path is not known")?;
    let cancel = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    // One request that waits is enough: whatever changed until it is served is seen then.
    let (request, reloads) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = request.try_send(());
        }
    });
    let load =
        Box::new(move || config::load_to_serve(settings.config.as_deref(), config::environment(), &settings.overrides));
    serve::run(config, executable, Control { cancel, reloads, load, filter_logs }).await?;
    Ok(ExitCode::SUCCESS)
}

fn train_by(config: &Config, train: Train) -> anyhow::Result<ExitCode> {
    let options = TrainOptions {
        recipe: train.recipe,
        out_dir: train.out.unwrap_or_else(|| config.models.dir.clone()),
        cache_dir: cache_dir(),
        work_dir: train.work,
        resume: train.resume,
        replace: train.replace,
        checkpoint_batches: train.checkpoint_batches,
        loaders: train.loaders,
        memory_bytes_max: train.memory.as_u64(),
        // One device trains, the first of several.
        device: config.models.devices.first().copied().unwrap_or(config::Device::Auto),
        threads: config.models.threads,
    };
    commands::training::run(&options, train.table.json)
}

/// Where generated cohorts are kept between runs: `SIDELIGHT_CACHE`, else the user's cache folder.
fn cache_dir() -> PathBuf {
    let named = std::env::var_os("SIDELIGHT_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache/sidelight"));
    named.or_else(home).unwrap_or_else(std::env::temp_dir)
}

fn version(json: bool) -> anyhow::Result<ExitCode> {
    let facts = [
        ("sidelight", env!("CARGO_PKG_VERSION").to_owned()),
        ("implementation class UID", dicom::IMPLEMENTATION_CLASS_UID.to_owned()),
        ("implementation version name", dicom::IMPLEMENTATION_VERSION_NAME.to_owned()),
        ("libtorch", "2.11.0".to_owned()),
    ];
    if json {
        let facts: serde_json::Map<_, _> = facts.into_iter().map(|(k, v)| (k.replace(' ', "_"), json!(v))).collect();
        commands::print_json(&facts)?;
    } else {
        commands::print(&commands::table(&["", ""], facts.map(|(k, v)| vec![k.to_owned(), v])))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_association_may_hold_a_blocking_thread_at_once_and_leaves_some() {
        let associations = BLOCKING_THREADS_MIN + 1;
        let runtime = runtime(associations).unwrap();
        let threads = associations + SPARE_THREADS;
        let all = Arc::new(Barrier::new(threads));
        let met = runtime.block_on(async {
            let waiting: Vec<_> = (0..threads)
                .map(|_| {
                    let all = Arc::clone(&all);
                    tokio::task::spawn_blocking(move || all.wait().is_leader())
                })
                .collect();
            let ended = async {
                for one in waiting {
                    one.await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(60), ended).await
        });
        runtime.shutdown_background();
        assert!(met.is_ok(), "some waited for a thread that others held");
    }
}
