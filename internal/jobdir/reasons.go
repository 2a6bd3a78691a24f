package jobdir

// Reasons that a receipt gives for the end of a run (manifest.Receipt.Reason).
// An exit code of the application's own is "exit code N" there.
const (
	Completed          = "completed"
	ReasonDirectory    = "job directory" // in no receipt: there is no supervisor then
	ReasonManifest     = "manifest"
	ReasonAttestation  = "attestation"
	ReasonKeys         = "keys"
	ReasonIntegrity    = "integrity"
	ReasonMounts       = "mounts"
	ReasonInputCheck   = "input check"
	ReasonOutputScript = "output script"
	ReasonSealing      = "sealing"
	ReasonTimeLimit    = "time limit"
	ReasonCancelled    = "cancelled"
)
