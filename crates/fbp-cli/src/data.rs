//! The options that say which data to use.

use std::path::{Path, PathBuf};

use clap::Args;
use fbp_models::{Checkpoint, Preprocessing};
use fbp_train::TrainError;
use fbp_train::data::{Corruption, Dataset, DropClass, read_own};
use fbp_train::identity::DataIdentity;
use fbp_train::input::{DataRequest, Input, NormalizationOrigin};
use fbp_train::progress::Progress;
use fbp_train::repair::{Corrupted, SampleOrigin};
use fbp_train::settings::Part;

use crate::choices::choice;
use crate::image_size::ImageFileArgs;
use crate::progress::Stderr;

/// Which data to use.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// mnist, fashion-mnist, cifar10 or cifar100; fashion-mnist-mini or shapes-mini, which ship with the repository; idx:FOLDER
    /// with the four IDX files of MNIST; folder:DIR with train and val folders, both with a folder of image files per class;
    /// planner (trajectories, made when they are loaded); or tensors:FILE.safetensors with inputs, and labels or outputs (`fbp
    /// write-data` shows how)
    #[arg(long, value_name = "NAME|idx:FOLDER|folder:DIR|tensors:FILE", required = true)]
    data: Option<String>,
    /// Folder with the named data sets, each in a folder of its own
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use only the first N training samples, equally many of every class
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train_size: Option<u32>,
    /// Number of classes of idx:FOLDER [default: 10] or tensors:FILE [default: one more than the largest label]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    classes: Option<u16>,
    /// Take a share of a class away from the training data, for example 3:0.9; may be given several times
    #[arg(long, value_name = "CLASS:SHARE")]
    drop_class: Vec<DropClass>,
    /// Give a class that was dropped back: post-training may get what pretraining lacked
    #[arg(long, value_name = "CLASS")]
    recover_class: Vec<u8>,
    /// Give this share of the training samples a wrong label [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_noise: Option<f64>,
    /// Corrupt all images, those of the test part too, with a strength from 1 to 5 [default: 3] as in the benchmarks of common
    /// corruptions (CIFAR-10-C up to 64 pixels, else ImageNet-C), for example fog:4
    #[arg(long, value_name = "noise|blur|fog|contrast[:STRENGTH]", requires = "data")]
    corrupt: Option<Corruption>,
    /// Seed of what is dropped, mislabelled and corrupted
    #[arg(long, value_name = "N", default_value_t = 0)]
    data_seed: u64,
    #[command(flatten)]
    files: ImageFileArgs,
}

impl DataArgs {
    /// Loads the data.
    pub(crate) fn load(&self) -> Result<Input, TrainError> {
        self.load_for(None)
    }

    /// Loads the data, for a network that is there already.
    fn load_for(&self, network: Option<&Preprocessing>) -> Result<Input, TrainError> {
        let files = &self.files;
        let request = DataRequest {
            name: self.data.clone().unwrap_or_default(),
            data_dir: self.data_dir.clone(),
            train_size: self.train_size,
            classes: self.classes,
            drop_class: self.drop_class.clone(),
            recover_class: self.recover_class.clone(),
            label_noise: self.label_noise,
            corrupt: self.corrupt,
            data_seed: self.data_seed,
            size: files.size.map(|size| size as usize),
            resize: files.resize.map(|size| size as usize),
            crop: files.crop.map(|size| size as usize),
            interpolation: files.interpolation,
            skip_broken: files.skip_broken,
            cache: files.cache.clone(),
            memory: files.memory,
        };
        let progress = Stderr::default();
        let input = request.load_for(network, &progress);
        // Also after an error: a bar that stays hides its message.
        progress.end();
        let input = input?;
        if let Some(first) = input.bundle.broken.first() {
            let count = input.bundle.broken.len();
            progress.note(&format!("{count} broken image files are left out, the first one: {}", first.display()));
        }
        Ok(input)
    }
}

/// Which data to use with a network that is there already: prepared as it wants them.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrainedDataArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Normalise images by the mean and deviation of these data, and not as in the training of the network
    #[arg(long)]
    renormalise: bool,
}

impl TrainedDataArgs {
    /// Loads the data for the network of a checkpoint file.
    pub(crate) fn load(&self, file: &Path, checkpoint: &Checkpoint) -> Result<Input, TrainError> {
        let mut input = self.data.load_for(checkpoint.preprocessing.as_ref())?;
        input.check_fits(checkpoint.network.spec())?;
        if input.prepare_for(checkpoint, self.renormalise)? == NormalizationOrigin::Unknown {
            Stderr::default().note(&format!(
                "{} does not tell how its images were normalised, so the mean and deviation of {} are used",
                file.display(),
                input.identity.name
            ));
        }
        Ok(input)
    }

    /// Loads the data for a network that is yet to be trained, which will want them as they are.
    pub(crate) fn load_untrained(&self) -> Result<Input, TrainError> {
        self.data.load()
    }

    /// Whether data are named.
    pub(crate) fn is_named(&self) -> bool {
        self.data.data.is_some()
    }
}

/// Which images samples are chosen from.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageArgs {
    /// Choose among the training images or the test images
    #[arg(long, value_parser = choice::<Part>(), default_value_t = Part::Train)]
    pub(crate) part: Part,
    /// Take images of your own: PNG or JPEG files of the network's size, or of any size if the checkpoint tells how they are
    /// resized, or one .safetensors file with a tensor `inputs` (U8: pixels, F32: as the network takes them) and maybe
    /// `labels`; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "part")]
    image: Vec<PathBuf>,
    /// Right class of the image, counted from 0; once for all images or once for each
    #[arg(long, value_name = "CLASS", requires = "image")]
    label: Vec<u8>,
}

/// Images of one's own with what tells them apart from others.
pub(crate) struct OwnImages {
    pub(crate) images: Dataset,
    pub(crate) identity: DataIdentity,
}

impl ImageArgs {
    /// The images of one's own, if any are named.
    pub(crate) fn own(&self, checkpoint: &Checkpoint) -> Result<Option<OwnImages>, TrainError> {
        if self.image.is_empty() {
            return Ok(None);
        }
        let spec = checkpoint.network.spec();
        let resizing = checkpoint.preprocessing.as_ref().and_then(Preprocessing::resizing);
        let images = read_own(&self.image, &self.label, (spec.input_dims().shape, resizing), spec.classes)?;
        let (name, sha256, samples) = (images.name().to_owned(), images.sha256(), images.len());
        Ok(Some(OwnImages { images, identity: DataIdentity { name, sha256, samples } }))
    }

    /// The images of the parts, corrupted, if that is asked for.
    pub(crate) fn corrupted(
        &self,
        corruption: Option<Corruption>,
        (input, args): (&Input, &TrainedDataArgs),
    ) -> Result<Option<Corrupted>, TrainError> {
        Ok(corruption.map(|kind| Corrupted::new(&input.bundle, kind, args.data.data_seed)).transpose()?)
    }

    /// Where samples are chosen from.
    pub(crate) fn origin<'a>(&self, own: Option<&'a OwnImages>) -> SampleOrigin<'a> {
        own.map_or(SampleOrigin::Part(self.part), |own| SampleOrigin::Own(&own.images))
    }
}
