package e2e

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// preparedEntry is the entry point that HPCS's container-prep gives an image whose own is /opt/app.
const preparedEntry = "/sd-container/tools/input_logic/run.sh && /opt/app $@ > /sd-container/output/stdout 2> /sd-container/output/stderr ; " +
	"echo $? > /sd-container/output/exit_code ; /sd-container/tools/output_logic/run.sh"

// TestImageOfHPCS: an image that HPCS prepared runs, as the SIF file that HPCS makes and as the image that it lies in Docker as: HPCS's scripts,
// which would ask its Vault, are not run, the application gets all its arguments, and the job has its exit code.
func TestImageOfHPCS(t *testing.T) {
	t.Parallel()
	must(t, "laptop", "alice", "mkdir", "-p", "hpcs")
	dir := onDisk(t, "laptop", "/home/alice/hpcs")
	const hpcsOwn = "#!/bin/sh\necho HPCS >/sd-container/output/hpcs\nexit 1\n"
	img := imageOf(t, nodeArch(t), v1.Config{Entrypoint: []string{"/bin/sh", "-c", preparedEntry}}, baseLayer(t), layerOf(t,
		member{"opt/", "", 0}, member{"opt/app", "#!/bin/sh\necho \"$# $*\"\necho words >&2\nexit 7\n", 0},
		member{"sd-container/", "", 0}, member{"sd-container/tools/", "", 0}, member{"sd-container/tools/input_logic/", "", 0},
		member{"sd-container/tools/input_logic/run.sh", hpcsOwn, 0}, member{"sd-container/tools/output_logic/", "", 0},
		member{"sd-container/tools/output_logic/run.sh", hpcsOwn, 0}))
	p, err := layout.Write(dir+"/oci", empty.Index)
	check(t, err)
	check(t, p.AppendImage(img))
	must(t, "laptop", "root", "sh", "-c", "cd /home/alice/hpcs && apptainer -q build prepared_app.sif oci:oci 2>&1 && chmod -R a+rX .")
	data := alice.dataset(t, "hpcs-image", map[string]string{"a": "1"})
	for name, image := range map[string]string{"sif": "hpcs/prepared_app.sif", "oci": "oci:hpcs/oci"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			info := alice.mustSB(t, "container-prep", "-b", image, "--data-path", "hpcs/"+name+".sealed", "--platform", "linux/"+nodeArch(t),
				"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*")
			j := alice.submit(t, info, data, "-args", "one --two")
			if code := j.wait(); code != 7 {
				t.Errorf("exit code %d, want the application's 7", code)
			}
			nodes, r := j.results()
			for _, dir := range nodes {
				for file, want := range map[string]string{"stdout": "2 one --two\n", "stderr": "words\n", "exit_code": "7\n"} {
					if got := read(t, dir, file); got != want {
						t.Errorf("%s: %q, want %q", file, got, want)
					}
				}
			}
			if len(nodes) != 1 || !strings.Contains(r.err, "exit code 7; sealed and signed") {
				t.Errorf("results: %s", r)
			}
		})
	}
}
