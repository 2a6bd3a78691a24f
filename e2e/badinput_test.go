package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// told fails unless a command failed with a code, said why, and what to do next.
func told(t *testing.T, r result, code int, why, next string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.err, why) || !strings.Contains(r.err, "hint: ") ||
		!strings.Contains(r.err[strings.LastIndex(r.err, "hint: "):], next) {
		t.Errorf("want exit %d, %q, and the hint %q: %s", code, why, next, r)
	}
}

// prep is a data-prep of the user's own data directory.
func (p person) prep(t *testing.T, name, rest string, flags ...string) result {
	t.Helper()
	return p.sb(t, append([]string{"data-prep", "-i", "data/" + name, "--data-path", "data/" + name + ".sealed",
		"--data-path-at-rest", rest, "-u", "alice", "-c", "*"}, flags...)...)
}

// onSite lists a directory of the site, without what other tests put there.
func onSite(t *testing.T, dir, prefix string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(onDisk(t, "login", dir), prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range all {
		all[i] = filepath.Base(p)
	}
	return all
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	t.Run("unreadable files, before anything is sealed", func(t *testing.T) {
		t.Parallel()
		must(t, "laptop", "alice", "sh", "-c", "mkdir -p data/unreadable/closed && cd data/unreadable && touch a b && chmod 0 a closed")
		told(t, alice.prep(t, "unreadable", alice.scratch()), 1,
			`not allowed to read: "/home/alice/data/unreadable/a", "/home/alice/data/unreadable/closed"`, "chmod u+rX")
		if got := onSite(t, alice.scratch(), "unreadable"); len(got) > 0 {
			t.Errorf("on the site: %q", got)
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		t.Parallel()
		must(t, "laptop", "alice", "sh", "-c", "mkdir -p data/pipe && mkfifo data/pipe/p")
		told(t, alice.prep(t, "pipe", alice.scratch()), 1, "not a regular file", "move the others out")
	})
	t.Run("what lies beside the sealed file, and in its place", func(t *testing.T) {
		t.Parallel()
		must(t, "laptop", "alice", "sh", "-c", "mkdir -p data/link data/place && echo x >data/link/x && echo x >data/place/x && "+
			"echo precious >data/victim && ln -s victim data/link.sealed.partial && ln -s victim data/place.sealed")
		if r := alice.prep(t, "link", alice.scratch()); r.code != 0 {
			t.Errorf("%s", r)
		}
		told(t, alice.prep(t, "place", alice.scratch()), 2, "place.sealed is a symbolic link", "links are not followed")
		if got := must(t, "laptop", "alice", "cat", "data/victim"); got != "precious" {
			t.Errorf("the file behind the link holds %q", got)
		}
	})
	t.Run("a directory that anyone can change", func(t *testing.T) {
		t.Parallel()
		must(t, "login", "alice", "mkdir", "-p", "-m", "777", alice.scratch()+"/open")
		must(t, "laptop", "alice", "sh", "-c", "mkdir -p data/open && echo x >data/open/x")
		told(t, alice.prep(t, "open", alice.scratch()+"/open"), 4, "can be changed by anyone", "chmod o-w")
	})
	t.Run("a changed host key", func(t *testing.T) {
		t.Parallel()
		must(t, "laptop", "alice", "sh", "-c", `mkdir -p data/hostkey && echo x >data/hostkey/x &&
			printf 'login %s\n' "$(cut -d' ' -f1,2 .ssh/id_ed25519.pub)" >other-hosts &&
			{ cat .config/sealbatch/client.conf; printf '[supercomputer]\nknown-hosts = ~/other-hosts\n'; } >other-host.conf`)
		told(t, alice.prep(t, "hostkey", alice.scratch(), "--config", "other-host.conf"), 4, "someone may be in between",
			"only if the site announced new keys")
	})
	t.Run("hostile names", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{"-rf", "$(touch pwned)", `a b'q"`, "*[x]?", "`id`;ls"} {
			must(t, "laptop", "alice", "sh", "-c", `mkdir -p -- "data/names/$1" && echo x >"data/names/$1/x"`, "sh", name)
			info := alice.mustSB(t, "data-prep", "-i", "data/names/"+name, "--data-path", "data/names/"+name+".sealed",
				"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*")
			if want := alice.scratch() + "/" + name + ".sealed.info.yaml"; info != want {
				t.Errorf("%q became %q", want, info)
			}
			if got := onDisk(t, "login", info); run(t.Context(), "login", "alice", nil, "test", "-s", info).code != 0 {
				t.Errorf("%s is not there", got)
			}
		}
		for name, want := range map[string]string{"line\nend": "not a file name", "no\xfftext": "not a file name"} {
			must(t, "laptop", "alice", "sh", "-c", `mkdir -p -- "data/names/$1"`, "sh", name)
			if r := alice.sb(t, "data-prep", "-i", "data/names/"+name, "--data-path", "data/n.sealed", "--data-path-at-rest",
				alice.scratch(), "-u", "alice", "-c", "*"); r.code != 2 || !strings.Contains(r.err, want) {
				t.Errorf("%q: %s", name, r)
			}
		}
		for _, host := range []string{"laptop", "login"} {
			if r := run(t.Context(), host, "alice", nil, "sh", "-c", "ls ~/pwned "+alice.scratch()+"/pwned"); r.code == 0 ||
				strings.Contains(r.out, "pwned") {
				t.Errorf("a name was executed on %s: %s", host, r)
			}
		}
	})
}

// TestHostileJob: what a submitter says goes through job-prep and Slurm as it was said, or is refused.
func TestHostileJob(t *testing.T) {
	t.Parallel()
	name := `*[x]? $(touch pwned) 'q' "d"`
	data := alice.dataset(t, name, map[string]string{"run.sh": `printf '%s\n' "$@" >/sd-container/output/args
ls /sd-container/encrypted >/sd-container/output/names
printf '%s' "$V" >/sd-container/output/v
`})
	scripts := alice.scratch() + "/-check s; touch pwned"
	write(t, "login", "alice", scripts+"/10 $(touch pwned)'.sh", "#!/bin/sh\ntest -e /sd-container/input/run.sh\n")
	work := alice.scratch() + "/work $(touch pwned) 'q' %j %%"
	must(t, "login", "alice", "mkdir", "-p", "--", work)
	j := alice.submit(t, shell(t), data, "--workdir", work, "-J", "\"$(touch pwned)\" `id` 'TIME' -x", "-i", scripts,
		"-args", `/sd-container/input/run.sh -- '$(touch pwned)' '*' "it's" '-rf' 'a
b'`, "-flags", `--env 'V=$(touch pwned) "x" ; %s'`)
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	nodes, r := j.results()
	if len(nodes) != 1 {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		for file, want := range map[string]string{"args": "--\n$(touch pwned)\n*\nit's\n-rf\na\nb\n", "names": name + "\n",
			"v": `$(touch pwned) "x" ; %s`} {
			if got := read(t, dir, file); got != want {
				t.Errorf("%s = %q, want %q", file, got, want)
			}
		}
	}
	base := []string{"job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60"}
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"-J", "two\nlines"}, "job-name"},
		{[]string{"-args", "no\xfftext"}, "UTF-8"},
		{[]string{"-args", "it's"}, "quotation"},
		{[]string{"-flags", "--bind /:/host"}, "does not permit"},
		{[]string{"-flags", "--env-file /etc/passwd"}, "give each variable with --env"},
		{[]string{"--workdir", alice.scratch() + "/\xff"}, "no"},
		{[]string{"--workdir", "../alice"}, "absolute path"},
		{[]string{"-p", "$(id)"}, "partition"},
		{[]string{"-di", alice.scratch() + "/../../../etc/shadow"}, "denied"},
	} {
		if c.flags[0] != "--workdir" {
			c.flags = append(c.flags, "--workdir", alice.scratch())
		}
		if r := alice.sb(t, append(base, c.flags...)...); r.code == 0 ||
			!strings.Contains(strings.ToLower(r.err), strings.ToLower(c.want)) || !strings.HasPrefix(lastError(r), "error: ") {
			t.Errorf("%q: %s", c.flags, r)
		}
	}
	for _, host := range []string{"laptop", "login", "cn1", "cn2"} {
		if out := run(t.Context(), host, "root", nil, "find", "/home", "/tmp", "/scratch", "-name", "pwned").out; out != "" {
			t.Errorf("something was executed on %s: %s", host, out)
		}
	}
}

func lastError(r result) string {
	i := strings.LastIndex(r.err, "error: ")
	return r.err[max(i, 0):]
}

// TestFullSite fills the small file system: nothing half-made is left on it, and with space the same
// command goes on with the file that is sealed already.
func TestFullSite(t *testing.T) {
	t.Parallel()
	small := "/scratch/small/full-site"
	smallDisk.Lock()
	t.Cleanup(smallDisk.Unlock)
	must(t, "login", "alice", "mkdir", "-p", small)
	t.Cleanup(func() { run(context.Background(), "login", "root", nil, "rm", "-rf", small) })
	must(t, "laptop", "alice", "sh", "-c",
		"mkdir -p data/full && head -c 40000000 /dev/urandom >data/full/x && mkdir -p data/fits && head -c 6000000 /dev/urandom >data/fits/x")
	told(t, alice.prep(t, "full", small), 1, "no space on the site: the sealed file takes about 39 MiB", "make space")
	if got := onSite(t, small, ""); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	if r := run(t.Context(), "laptop", "alice", nil, "test", "-e", "data/full.sealed"); r.code == 0 {
		t.Error("it was sealed before the lack of space was found")
	}
	// Space that is there at first, and then is not: a hog takes it as soon as the upload begins. It
	// would be a race, so the early look is taken out of the program.
	at := installed(t, "laptop", weakened(t, weakness{"internal/publish/publish.go", "free < 0 || free >=", "free >= 0 || free >="}))
	must(t, "login", "alice", "sh", "-c", "head -c 30000000 /dev/zero >"+small+"/hog || true")
	args := []string{"data-prep", "-i", "data/fits", "--data-path", "data/fits.sealed", "--data-path-at-rest", small, "-u", "alice", "-c", "*"}
	r := run(t.Context(), "laptop", "alice", nil, append([]string{at + "/sealbatch"}, args...)...)
	told(t, r, 1, "no space is left for site:"+small+"/fits.sealed.", "run the same command again")
	if got := onSite(t, small, "fits"); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	before := must(t, "laptop", "alice", "sha256sum", "data/fits.sealed")
	if r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", alice.scratch()+"/x", "-t", "10", "--seal-time", "60",
		"--workdir", small); r.code == 0 {
		t.Errorf("job-prep: %s", r)
	}
	must(t, "login", "alice", "rm", small+"/hog")
	info := alice.mustSB(t, args...)
	if after := must(t, "laptop", "alice", "sha256sum", "data/fits.sealed"); after != before {
		t.Error("it was sealed again")
	}
	if got := must(t, "login", "alice", "sha256sum", strings.TrimSuffix(info, ".info.yaml")); got[:64] != before[:64] {
		t.Error("what arrived is something else")
	}
	// A job whose directory does not fit.
	data := alice.dataset(t, "full-job", simple)
	must(t, "login", "alice", "sh", "-c", "head -c 30000000 /dev/zero >"+small+"/hog || true")
	told(t, alice.sb(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", small),
		1, "no space is left for site:"+small+"/sealbatch-", "make space")
	if got := onSite(t, small, "sealbatch-"); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}
