package manifest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files under testdata")

var testTime = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

// digest returns a digest that is easy to tell from others.
func digest(b byte) (d Digest) {
	for i := range d {
		d[i] = b
	}
	return d
}

const testID = "000102030405060708090a0b0c0d0e0f"

func testPolicy() Policy {
	return Policy{
		Users: []string{"alice"}, Groups: []string{"project_1"}, Nodes: []string{"cn[1-4]", "gpu7"},
		Tier: TierB2, Expires: testTime.AddDate(0, 1, 0), Releases: 3,
		Accounts: []string{"project_1"}, Partitions: []string{"standard"}, HostBinds: true, Network: NetworkNone,
		PinVersion: true,
	}
}

func testInfo() Info {
	return Info{
		PathAtRest: "/scratch/project_1/jp2a_input.sbv", SecretPath: "sealbatch/" + testID,
		Checksum: digest(2).String(), Format: InfoFormat, Kind: KindDataset, Name: "jp2a_input",
		VolumeID: testID, Digest: digest(1), Size: 123456, Service: "keys.example.org",
		Created: testTime, Policy: testPolicy(),
	}
}

func testImage() *Image {
	return &Image{
		Reference: "docker.io/talinx/jp2a:latest", Digest: digest(9), Of: OfManifest, Platform: "linux/amd64",
		Base:     &BaseImage{Reference: "docker.io/library/debian:13", Digest: digest(10).String()},
		SignedBy: digest(11), SBOM: &FileRef{Name: "sbom.spdx.json", Digest: digest(12), Size: 77},
	}
}

func testImageInfo() Info {
	i := testInfo()
	i.Kind, i.Name, i.Image = KindImage, "jp2a", testImage()
	i.Policy.Images = []string{digest(9).String(), testID}
	return i
}

func testManifest() Manifest {
	return Manifest{
		Format: Format, Run: testID, Created: testTime, Expires: testTime.Add(time.Hour),
		Service: Service{URL: "https://keys.example.org:8443", ID: "keys.example.org", CA: "PEM\n", StatementKey: "key"},
		Attest:  Attest{Type: "slurm", Parameters: []byte(`{"url":"https://login:8444","ca":"PEM\n","munge_user":"sealbatch"}`)},
		Cluster: "box",
		Tier:    TierB2,
		Volumes: []VolumeRef{
			{Kind: KindImage, Name: "image", Path: "/scratch/project_1/jp2a.sbv", VolumeID: testID,
				Digest: digest(3), Checksum: digest(4), Size: 4096, Image: testImage()},
			{Kind: KindDataset, Name: "jp2a_input", Path: "/scratch/project_1/jp2a_input.sbv",
				VolumeID: "0f0e0d0c0b0a09080706050403020100", Digest: digest(1), Checksum: digest(2), Size: 123456},
		},
		InputScripts:  []FileRef{{Name: "10-check.sh", Digest: digest(5), Size: 17}},
		OutputScripts: []FileRef{{Name: "10-check.sh", Digest: digest(6), Size: 18}},
		Binaries:      []FileRef{{Name: "sealbatch", Digest: digest(7), Size: 19}},
		Private:       digest(8), User: "alice",
		Runtime: "apptainer", Network: NetworkNone, JobDir: "/scratch/project_1/jobs/x", Nodes: 2,
		Recipients: []string{"age1example"}, SealSeconds: 300,
	}
}

// golden compares got with a file under testdata, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	p := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(p, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; if that is meant, run go test -update\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestGoldenInfo(t *testing.T) {
	t.Parallel()
	b, err := testInfo().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "dataset.info.yaml", b)
}

func TestGoldenImageInfo(t *testing.T) {
	t.Parallel()
	b, err := testImageInfo().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "image.info.yaml", b)
}

func TestGoldenManifest(t *testing.T) {
	t.Parallel()
	b, err := testManifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", b)
}
