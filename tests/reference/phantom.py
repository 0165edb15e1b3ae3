"""The images that make.py encodes and meanings.py describes: smooth shapes with noise, and the least header."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROWS, COLUMNS = 61, 47  # odd on purpose: values of odd length, blocks that do not fill up


def picture(bits, signed=False, rows=ROWS, columns=COLUMNS, seed=0):
    """A smooth shape with noise that uses the whole range of `bits`."""
    y, x = np.mgrid[0:rows, 0:columns]
    shape = 0.5 + 0.4 * np.sin(x / 7.0 + seed) * np.cos(y / 9.0) + 0.1 * ((x // 8 + y // 8) % 2)
    noise = np.random.default_rng(seed).normal(0, 0.02, (rows, columns))
    unit = np.clip(shape + noise, 0, 1)
    unit[0, 0], unit[-1, -1] = 0, 1
    values = np.round(unit * (2**bits - 1)).astype(np.int64)
    return values - 2 ** (bits - 1) if signed else values


def dataset(number, photometric, samples, allocated, stored, signed, frames, pixels):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    multi = frames > 1
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7" + (".2" if multi else "")
    ds.SOPInstanceUID = f"2.25.777{number}"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.7771", "2.25.7772"
    ds.PatientName, ds.PatientID = "PHANTOM", "PHANTOM"
    ds.Modality = "OT"
    ds.Rows, ds.Columns = pixels.shape[multi:][:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    ds.PixelRepresentation = int(signed)
    if samples == 3:
        ds.PlanarConfiguration = 0
    if multi:
        ds.NumberOfFrames = frames
    # what contracts ask for: a side for mammography, units for CT, a window of each function
    ds.ImageLaterality = "LR"[number % 2]
    if samples == 1 and signed:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -24, "HU"
    elif photometric.startswith("MONOCHROME"):
        ds.WindowCenter, ds.WindowWidth = 0.45 * 2**stored, 0.8 * 2**stored
        ds.VOILUTFunction = ["LINEAR", "LINEAR_EXACT", "SIGMOID"][number % 3]
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return ds
