package jobprep

import (
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// digestLater stands in a dry run's script for the manifest's digest, which
// exists only once the info files have been read and the manifest is signed.
const digestLater = "KNOWN-WHEN-SIGNED"

// DryRun describes what Prepare and Submit would do, and shows the script. It
// contacts nobody and writes nothing; d.FS, d.Slurm and d.Keys are not used.
func DryRun(d Deps, o Options) (string, error) {
	p := &planned{d: d, o: o, run: NewRun()}
	if _, err := manifest.ParseFlags(o.Flags); err != nil {
		return "", fault.New(fault.Usage, fmt.Errorf("-flags: %w", err), "")
	}
	if err := p.digestPrograms(); err != nil {
		return "", err
	}
	if _, err := d.Evidence.Lookup(o.Attest); err != nil {
		return "", fault.New(fault.Usage, err, "")
	}
	p.chooseSealTime()
	var none manifest.Digest
	script, err := p.render(none)
	if err != nil {
		return "", fault.New(fault.Usage, err, "")
	}
	var b strings.Builder
	n := 0
	step := func(format string, a ...any) {
		n++
		fmt.Fprintf(&b, "%2d. %s\n", n, text.Printable(fmt.Sprintf(format, a...)))
	}
	where := "this machine"
	if d.Address != "" {
		where = d.Address
	}
	step("connect to %s", where)
	for _, f := range append([]string{o.ApplicationInfo}, o.DataInfo...) {
		step("read and check %s, its .sig, and the index of the volume that it names", transfer.At(f))
	}
	for _, dir := range []string{o.InputScripts, o.OutputScripts} {
		if dir != "" {
			step("read the verification scripts in %s", dir)
		}
	}
	if len(o.HPCSKeys) > 0 {
		step("look into the files of those info files that HPCS wrote, and deposit their keys at %s for this job alone", d.Service.URL)
	}
	step("ask Slurm about the partition, the nodes and the jobs that are named")
	step("ask %s who it is, and register the signed manifest there", d.Service.URL)
	if p.credentials() != "" {
		step("obtain %d %s there", o.Script.Nodes, p.credentials())
	}
	step("make %s (mode 0700) and upload into it:", transfer.At(p.at()))
	for _, f := range p.binaries {
		fmt.Fprintf(&b, "      %s/%s (%s)\n", jobdir.BinDir, f.Name, text.Size(f.Size))
	}
	fmt.Fprintf(&b, "      %s, %s, %s, %s/\n", jobdir.ManifestName, jobdir.SignatureName, jobdir.ScriptName, jobdir.ScriptsDir)
	step("make a symbolic link to its log beside it, NAME%s as in HPCS, unless something else has that name", jobdir.LogLinkSuffix)
	without := ""
	if p.credentials() != "" {
		without = " and the " + p.credentials() + " in it, which are never shown"
	}
	step("run there: sbatch --parsable, with this script on standard input%s:", without)
	fmt.Fprintf(&b, "\n%s", strings.ReplaceAll(string(script), none.Hex(), digestLater))
	return b.String(), nil
}
