package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindRuntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := func(name, version string) string {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, []byte("#!/bin/sh\n[ \"$*\" = --version ] && echo '"+version+"'\n"), 0o700))
		return path
	}
	apptainer := program("a/apptainer", "apptainer version 1.4.5")
	alias := program("a/singularity", "apptainer version 1.4.5")
	ce := program("s/singularity", "singularity-ce version 3.11.4-1")
	program("other/apptainer", "docker 1")
	check(t, os.WriteFile(dir+"/not-executable", nil, 0o600))
	for _, c := range []struct {
		name, path   string
		want, prefix string
	}{
		{"", "/nowhere:" + dir + "/a", apptainer, "APPTAINER"},
		{"", dir + "/s:" + dir + "/a", apptainer, "APPTAINER"},
		{"", dir + "/s", ce, "SINGULARITY"},
		{"singularity", dir + "/a:" + dir + "/s", alias, "APPTAINER"},
		{ce, "", ce, "SINGULARITY"},
		{"", "", "", ""},
		{"", "s:" + filepath.Base(dir), "", ""},
		{"", dir + "/other", "", ""},
		{"a/apptainer", dir, "", ""},
		{"--help", dir, "", ""},
		{"not-executable", dir, "", ""},
	} {
		got, err := Find(t.Context(), c.name, []string{"PATH=" + c.path})
		if got.Path != c.want || got.Prefix != c.prefix || (err == nil) != (c.want != "") {
			t.Errorf("findRuntime(%q) in %q: %+v, %v", c.name, c.path, got, err)
		}
	}
}

func TestPassed(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"SLURM_PROCID": true, "SLURMD_NODENAME": true, "SLURMD_DEBUG": false, "PMI_RANK": true, "PMIX_RANK": true,
		"OMP_NUM_THREADS": true, "CUDA_VISIBLE_DEVICES": true,
		"ROCR_VISIBLE_DEVICES": true, "SLURM_JWT": false, "HOME": false, "LD_PRELOAD": false, "SSH_AUTH_SOCK": false,
		"MY_SLURM_X": false, "SLURM_": false, "BASH_FUNC_SLURM_x%%": false, "APPTAINER_BIND": false,
	} {
		if passed(name) != want {
			t.Errorf("passed(%q) = %v", name, !want)
		}
	}
}

func TestLookupTakesWholeNames(t *testing.T) {
	t.Parallel()
	env := strings.Fields("AB=2 A=1=x A=3")
	if got := Lookup(env, "A"); got != "1=x" {
		t.Errorf("%q", got)
	}
	if got := Lookup(env, "B"); got != "" {
		t.Errorf("%q", got)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
