package e2e

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// encryptLikeHPCS writes plain beside an info file as HPCS does, in dir, and the key.
func encryptLikeHPCS(t *testing.T, plain []byte, dir, file string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	check(t, err)
	var b bytes.Buffer
	w, err := age.Encrypt(&b, id.Recipient())
	check(t, err)
	_, err = w.Write(plain)
	check(t, errors.Join(err, w.Close()))
	info := fmt.Sprintf("info:\n  access_role: r\n  checksum: %x\n  path_at_rest: /scratch/%s\n  secret_path: s\n  spiffeID: spiffe://hpcs/x\n",
		sha512.Sum512(b.Bytes()), file)
	check(t, errors.Join(os.WriteFile(dir+"/"+file, b.Bytes(), 0o644), os.WriteFile(dir+"/"+file+".info.yaml", []byte(info), 0o644),
		os.WriteFile(dir+"/key", []byte(id.String()), 0o600)))
}

// TestFromHPCS: an image and a dataset that HPCS prepared, at the site as HPCS shipped it, run as they did there: sealed anew, and decrypted by the job.
func TestFromHPCS(t *testing.T) {
	t.Parallel()
	must(t, "laptop", "alice", "mkdir", "-p", "from-hpcs/oci")
	dir := onDisk(t, "laptop", "/home/alice/from-hpcs")
	p, err := layout.Write(dir+"/oci", empty.Index)
	check(t, err)
	check(t, p.AppendImage(imageOf(t, nodeArch(t), v1.Config{Entrypoint: []string{"/bin/sh", "-c", preparedEntry}}, baseLayer(t), layerOf(t,
		member{"sd-container/", "", 0}, member{"opt/", "", 0},
		member{"opt/app", "#!/bin/sh\necho \"$# $*\"\ncat /sd-container/encrypted/jp2a_input/image.txt\nexit 7\n", 0}))))
	must(t, "laptop", "root", "sh", "-c", "cd /home/alice/from-hpcs && apptainer -q build prepared_app.sif oci:oci 2>&1")
	sif, err := os.ReadFile(dir + "/prepared_app.sif")
	check(t, err)
	encryptLikeHPCS(t, sif, dir, "encrypted_prepared_app.sif")
	shipped := alice.scratch() + "/from-hpcs/"
	for _, file := range []string{"encrypted_jp2a_input.tgz", "encrypted_jp2a_input.tgz.info.yaml"} {
		b, err := os.ReadFile("../internal/hpcs/testdata/" + file)
		check(t, err)
		write(t, "login", "alice", shipped+file, string(b))
	}
	for _, file := range []string{"encrypted_prepared_app.sif", "encrypted_prepared_app.sif.info.yaml"} {
		b, err := os.ReadFile(dir + "/" + file)
		check(t, err)
		write(t, "login", "alice", shipped+file, string(b))
	}
	key, err := os.ReadFile("../internal/hpcs/testdata/keys")
	check(t, err)
	check(t, os.WriteFile(dir+"/keys", key, 0o600))
	must(t, "laptop", "root", "sh", "-c", "chown -R alice /home/alice/from-hpcs")

	common := []string{"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*"}
	data := alice.mustSB(t, append([]string{"data-prep", "--from-hpcs", shipped + "encrypted_jp2a_input.tgz.info.yaml",
		"--hpcs-key", "from-hpcs/keys", "-o", "from-hpcs"}, common...)...)
	image := alice.mustSB(t, append([]string{"container-prep", "--from-hpcs", "from-hpcs/encrypted_prepared_app.sif.info.yaml",
		"--hpcs-key", "from-hpcs/key", "--data-path", "from-hpcs/sif.sealed"}, common...)...)
	jobs := map[string]*job{
		"sealed anew": alice.submit(t, image, data, "-args", "one --two"),
		"as they are": alice.submit(t, shipped+"encrypted_prepared_app.sif.info.yaml", shipped+"encrypted_jp2a_input.tgz.info.yaml",
			"-args", "one --two", "--hpcs-key", "from-hpcs/keys", "--hpcs-key", "from-hpcs/key"),
	}
	for name, j := range jobs {
		if code := j.wait(); code != 7 {
			t.Errorf("%s: exit code %d, want the application's 7", name, code)
		}
		nodes, r := j.results()
		if len(nodes) != 1 {
			t.Errorf("%s: results: %s", name, r)
		}
		for _, dir := range nodes {
			if got := read(t, dir, "stdout"); got != "2 one --two\na picture\n" {
				t.Errorf("%s: it printed %q", name, got)
			}
		}
	}
	for _, want := range []string{"it is you who vouches for this file", "once more, encrypted", "container-prep --from-hpcs"} {
		if said := jobs["as they are"].log.String(); !strings.Contains(said, want) {
			t.Errorf("job-prep does not say %q: %s", want, said)
		}
	}
	left := must(t, "login", "alice", "sh", "-c", "cd "+alice.scratch()+`; find . -path '*/nodes/*' -name nameless; grep -rl 'a picture' . || :`)
	if left != "" {
		t.Errorf("left at the site: %s", left)
	}
}
