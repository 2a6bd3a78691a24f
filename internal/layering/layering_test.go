package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/sealbatch/sealbatch/"

// floors lists the packages, top floor first. A package may import from lower
// floors only; packages on one floor do not import each other. A package's own
// subpackages (test doubles, conformance suites) stand just above it, unless they
// are listed themselves.
var floors = [][]string{
	{"cmd/sealbatch", "e2e", "bench", "deploy", "internal/layering", "testcluster/registry", "tools/image"},
	{"internal/ui"}, // the terminal: what is below reports by small interfaces
	{"containerprep", "dataprep", "jobprep", "internal/noderun", "internal/doctor", "internal/results"},
	{"internal/publish", "internal/submission", "internal/nodelocal"}, // what the workflows share
	{"internal/keyserver/keyservertest"},
	{"internal/setup"}, // of both services
	{"internal/evidence/builtin"},
	{"internal/evidence", "internal/sifbuild"},
	{"internal/keyserver", "internal/verifier", "internal/fusetest", "internal/container", "internal/image", "internal/hpcs"},
	{"internal/sandbox", "slurm", "internal/jobdir", "internal/transfer", "internal/sshid",
		"internal/keyclient", "internal/knownservice", "internal/keyserver/audit", "internal/keyserver/boltstore", "internal/keyserver/slotstore",
		"internal/keyserver/voucher",
		"internal/keyserver/token", "internal/service", "internal/source"},
	{"internal/registry"},
	{"fusefs", "internal/keyserver/attest", "internal/oci", "internal/cosign"},
	{"internal/keyapi", "internal/layers"},
	{"volume", "internal/manifest", "internal/config", "internal/keyserver/store", "internal/gate", "internal/munge", "internal/sshconfig"},
	{"internal/trusted", "internal/output", "internal/spool", "internal/sbom"},
	{"internal/fault", "internal/fusemount", "internal/fsx", "internal/retry", "internal/text", "internal/shellwords",
		"internal/progress", "internal/harden", "internal/sshkey", "internal/sitecmd", "internal/hostlist", "internal/names", "internal/version",
		"internal/squashfs", "internal/inflate", "internal/userdirs"},
}

func floorOf(pkg string) (floor int, sub bool, err error) {
	longest := ""
	for i, f := range floors {
		for _, p := range f {
			if (pkg == p || strings.HasPrefix(pkg, p+"/")) && len(p) > len(longest) {
				longest, floor, sub = p, i, pkg != p
			}
		}
	}
	if longest == "" {
		return 0, false, fmt.Errorf("package %s stands on no floor", pkg)
	}
	return floor, sub, nil
}

func checkImport(from, to string) error {
	ff, fsub, err := floorOf(from)
	if err != nil {
		return err
	}
	tf, _, err := floorOf(to)
	if err != nil {
		return err
	}
	if tf > ff || (fsub && strings.HasPrefix(from, to+"/")) {
		return nil
	}
	return fmt.Errorf("%s imports %s, which is not on a lower floor", from, to)
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Doc string
	Imports         []string
}

// list returns the module's packages.
func list(t *testing.T) (out []listed) {
	t.Helper()
	b, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if _, _, err := floorOf(from); err != nil {
			t.Error(err)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if to, ok := strings.CutPrefix(imp, module); ok {
				if err := checkImport(from, to); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d packages seen; is the list command right?", seen)
	}
}

func TestCheckImportBites(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to string }{
		{"volume", "internal/transfer"},   // upwards
		{"volume", "internal/manifest"},   // sideways
		{"internal/keyserver", "jobprep"}, // upwards
		{"jobprep", "internal/ui"},        // only programs have a terminal
		{"internal/publish", "internal/ui"},
		{"nosuch", "volume"},        // unknown importer
		{"cmd/sealbatch", "nosuch"}, // unknown import
		{"volume", "volume/vectors"},
		{"internal/keyserver/audit", "internal/keyserver"},     // a listed subpackage, upwards
		{"internal/keyserver/audit", "internal/keyclient"},     // and sideways
		{"internal/keyserver", "internal/keyserver/storetest"}, // one that is not listed
	} {
		if checkImport(c.from, c.to) == nil {
			t.Errorf("%s importing %s passed", c.from, c.to)
		}
	}
	for _, c := range []struct{ from, to string }{
		{"cmd/sealbatch", "volume"}, {"internal/keyserver/storetest", "internal/keyserver"}, {"internal/keyserver", "internal/keyserver/audit"},
		{"internal/publish", "internal/transfer"},
	} {
		if err := checkImport(c.from, c.to); err != nil {
			t.Error(err)
		}
	}
}
