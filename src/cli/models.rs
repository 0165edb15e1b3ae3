//! `model …` and `profile …`: what models are, and what a site fitted for them.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Model {
    /// List the packages in models.dir
    List(Table),
    /// Make a package of a weight file and a card, once the model has run
    Add(ModelAdd),
    /// Check card, hash, a trial run and the golden values of one package, or of all
    Verify {
        /// Package name; without one, all packages
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Fail where a package that runs here has no golden values
        #[arg(long)]
        require_golden: bool,
        #[command(flatten)]
        table: Table,
    },
    /// Write a package's golden values anew: what it answers now is what `model verify` expects from then on
    Golden {
        /// Package name
        #[arg(value_name = "NAME")]
        name: String,
        /// Take what the model's supplier says that it answers, if it does: safetensors with `images` and `outputs`, as
        /// docs/models.md tells
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Fit how far an image is from what a package's model knows, to images that it knows, and write that into its card
    OodFit(OodFit),
    /// Write a package's model as one TorchScript file
    Export {
        /// Package name
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ModelAdd {
    /// Weights: TorchScript (torch.jit.save) or safetensors; docs/models.md tells how to make either
    #[arg(value_name = "FILE")]
    pub weights: PathBuf,
    /// Card of the model, or one of models/templates
    #[arg(long, value_name = "CARD")]
    pub card: PathBuf,
    /// Name of the package, in place of the card's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Write golden values too, by which `model verify` knows the model again on other devices
    #[arg(long)]
    pub golden: bool,
}

#[derive(Debug, Args)]
pub struct OodFit {
    /// Package name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// DICOM files as the model is to know, or folders that are searched for them; those out of its scope are left out
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// energy: from its logits; mahalanobis: from the features before its last layer, where the network gives them
    #[arg(long, value_name = "METHOD", value_parser = ["energy", "mahalanobis"])]
    pub method: String,
    /// Of the studies, so many percent are not beyond the threshold
    #[arg(long, value_name = "P", default_value_t = 99.0)]
    pub percentile: f64,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Fit a profile from the results of a labelled cohort
    Fit(ProfileFit),
    /// Estimate the site's own mix of groups from the race scores in the index, for models.race_prior
    Prior {
        /// File that receives it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Shares of the groups that the race model was trained on, e.g. Asian=0.1,Black=0.3,White=0.6; from its card
        /// where that gives them
        #[arg(long, value_name = "SHARES")]
        trained: Option<String>,
        /// Studies that are needed at least; never less than 500
        #[arg(long, value_name = "N", default_value_t = 500)]
        studies_min: usize,
    },
    /// Show what the candidate of risk.refit changes, or let it in
    Approve {
        /// The candidate's identifier, as it was shown; without it, it is shown
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Private key to sign it with, where risk.profile_keys asks for a signature
        #[arg(long, value_name = "FILE", requires = "id")]
        key: Option<PathBuf>,
        /// Let it in although the node would abstain by it, wholly or for a finding
        #[arg(long, requires = "id")]
        anyway: bool,
    },
    /// Tell whether a profile fits what is configured: signature, models, thresholds, prior, age; exit code 1 if not
    Check {
        /// Without one, risk.profile
        #[arg(value_name = "FILE")]
        profile: Option<PathBuf>,
        #[command(flatten)]
        table: Table,
    },
    /// Print what a new profile changes: groups, gates, curves, levels; read it before the new one is signed
    Diff {
        #[arg(value_name = "OLD")]
        old: PathBuf,
        #[arg(value_name = "NEW")]
        new: PathBuf,
        #[command(flatten)]
        table: Table,
    },
    /// Make a key pair for signatures: the private key goes into a file, the public one is printed
    Key {
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a profile, so that nodes that trust the key use it; the signature goes into FILE.sig
    Sign {
        #[arg(value_name = "FILE")]
        profile: PathBuf,
        /// Private key, of `profile key` or any Ed25519 key in PKCS#8
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Print a profile: curves, gates and what it decides; read it before it is used
    Show {
        #[arg(value_name = "FILE")]
        profile: PathBuf,
        #[command(flatten)]
        table: Table,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("scores").required(true).multiple(true).args(["results", "index"]))]
#[command(group = clap::ArgGroup::new("truth").required(true).multiple(true).args(["labels", "index"]))]
pub struct ProfileFit {
    /// result.json files of `analyse --with-posteriors`
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "truth")]
    pub results: Vec<PathBuf>,
    /// Labels (CSV): patient, study, self-reported group, a column of 0 and 1 for each finding; view and date if known
    #[arg(long, value_name = "FILE", requires = "scores")]
    pub labels: Option<PathBuf>,
    /// The studies of the node's index that have labels (`sidelight labels import`), alone or beside files
    #[arg(long)]
    pub index: bool,
    /// The profile to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Folder for calibration by group: a table, a text and a picture (SVG) of each finding; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub diagnostics: Option<PathBuf>,
    /// Seed of the bootstrap
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Number of bootstrap replicates
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(crate::config::DRAWS))]
    pub bootstrap: Option<u32>,
    #[command(flatten)]
    pub table: Table,
}
