package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// raceOptions spare every process of a race-detecting build the second that
// it would wait at its end (go.dev/doc/articles/race_detector#Options).
const raceOptions = "atexit_sleep_ms=0"

// TestMain makes this test binary answer to the name sealbatch, so that the
// scripts run the very program, in processes of its own.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", raceOptions)
	programs := map[string]func(){"sealbatch": main, "age-plugin-example": examplePlugin, "attackers": attackers}
	for _, s := range steps {
		programs[s] = main
	}
	testscript.Main(m, programs)
}

// examplePlugin is an age plugin whose recipients and identities hold an age
// X25519 identity.
func examplePlugin() {
	p, err := plugin.New("example")
	if err != nil {
		panic(err)
	}
	p.RegisterFlags(flag.CommandLine)
	flag.Parse()
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return age.ParseX25519Recipient(string(data)) })
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return age.ParseX25519Identity(string(data)) })
	os.Exit(p.Main())
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		ContinueOnError:     true,
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     cmdExits,
			"agekey":    cmdAgeKey,
			"expand":    cmdExpand,
			"flip":      cmdFlip,
			"serve":     cmdServe,
			"service":   cmdService,
			"sif":       cmdSIF,
			"oci":       cmdOCI,
			"registry":  cmdRegistry,
			"push":      cmdPush,
			"cosign":    cmdCosign,
			"programs":  cmdPrograms,
			"migrating": cmdMigrating,
		},
	})
}

// setUpScript gives every script a home of its own.
func setUpScript(e *testscript.Env) error {
	home := filepath.Join(e.WorkDir, "home")
	e.Setenv("HOME", home)
	e.Setenv("XDG_CONFIG_HOME", "")
	e.Setenv("XDG_STATE_HOME", "")
	e.Setenv("SEALBATCH_CONFIG", "")
	e.Setenv("SSH_AUTH_SOCK", "")
	e.Setenv("TZ", "UTC")
	vectors, err := filepath.Abs("../../internal/hpcs/testdata")
	if err != nil {
		return err
	}
	e.Setenv("HPCS", vectors)
	e.Setenv("GORACE", raceOptions)
	return errors.Join(os.MkdirAll(filepath.Join(home, ".ssh"), 0o700),
		os.MkdirAll(filepath.Join(home, ".local/state/sealbatch"), 0o700)) // where tests run in a container, its making is announced
}

// cmdExits runs a program that must end with a given code, where exec only
// tells success from failure: exits CODE PROGRAM [ARGUMENT...].
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	got := "0"
	switch {
	case errors.As(err, &ended):
		got = fmt.Sprint(ended.ExitCode())
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("%s ended with code %s, want %s", args[1], got, args[0])
	}
}

// cmdAgeKey makes an age identity and the file of its recipient, of a kind (pq,
// plugin) or the usual one: agekey FILE [KIND].
func cmdAgeKey(ts *testscript.TestScript, neg bool, args []string) {
	kind := ""
	if len(args) == 2 {
		kind = args[1]
	}
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: agekey FILE [KIND]")
	}
	path := ts.MkAbs(args[0])
	switch kind {
	case "":
		ts.Check(writeIdentity(path))
	case "pq":
		id, err := age.GenerateHybridIdentity()
		ts.Check(err)
		ts.Check(writePair(path, id.String(), id.Recipient().String()))
	case "plugin":
		id, err := age.GenerateX25519Identity()
		ts.Check(err)
		ts.Check(writePair(path, plugin.EncodeIdentity("example", []byte(id.String())),
			plugin.EncodeRecipient("example", []byte(id.Recipient().String()))))
	default:
		ts.Fatalf("unknown kind of identity %q", kind)
	}
}

func writePair(path, identity, recipient string) error {
	return errors.Join(os.WriteFile(path, []byte(identity+"\n"), 0o600), os.WriteFile(path+".pub", []byte(recipient+"\n"), 0o600))
}

// writeIdentity makes an age identity at path and its recipient at path.pub.
func writeIdentity(path string) error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	return writePair(path, id.String(), id.Recipient().String())
}

// newIdentity is writeIdentity for a Go test; it returns the recipient's file.
func newIdentity(t *testing.T, path string) string {
	t.Helper()
	if err := writeIdentity(path); err != nil {
		t.Fatal(err)
	}
	return path + ".pub"
}

// cmdSIF makes an image file whose file system is nonsense: sif FILE.
func cmdSIF(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sif FILE")
	}
	input, err := sif.NewDescriptorInput(sif.DataPartition, strings.NewReader(strings.Repeat("file system ", 1000)),
		sif.OptPartitionMetadata(sif.FsSquash, sif.PartPrimSys, runtime.GOARCH))
	ts.Check(err)
	f, err := sif.CreateContainerAtPath(ts.MkAbs(args[0]), sif.OptCreateWithDescriptors(input))
	ts.Check(err)
	ts.Check(f.UnloadContainer())
}

// cmdOCI makes an archive of docker save that has an image of one file: oci FILE ARCHITECTURE.
func cmdOCI(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: oci FILE ARCHITECTURE")
	}
	img, err := helloImage(args[1])
	ts.Check(err)
	tag, err := name.NewTag("example.org/some/hello:1")
	ts.Check(err)
	ts.Check(tarball.WriteToFile(ts.MkAbs(args[0]), tag, img))
}

// cmdPrograms puts a stand-in for gocryptfs beside sealbatch: both travel with
// a job, and here none starts it.
func cmdPrograms(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: programs")
	}
	self, err := exec.LookPath("sealbatch")
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(self), "gocryptfs"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
}

// cmdExpand replaces $NAME in files by the script's variables: expand FILE...
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, f := range args {
		ts.Check(os.WriteFile(ts.MkAbs(f), []byte(os.Expand(ts.ReadFile(f), ts.Getenv)), 0o600))
	}
}

// cmdFlip changes one byte in the middle of a file, or at an offset from its
// end: flip FILE [FROM-END].
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: flip FILE [FROM-END]")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	at := len(b) / 2
	if len(args) > 1 {
		var back int
		_, err := fmt.Sscan(args[1], &back)
		ts.Check(err)
		at = len(b) - back
	}
	b[at] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// cmdServe sets up a key service in a directory, if there is none, and starts
// it on a free port: serve DIR. It sets SERVICE_URL.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	conf := ts.MkAbs(args[0] + "/server.conf")
	if _, err := os.Stat(conf); err != nil {
		ts.Check(ts.Exec("sealbatch", "serve", "--init", args[0], "--host", "localhost", "--host", "127.0.0.1", "--listen", "127.0.0.1:8443"))
	}
	p, err := startService(ts.Getenv("HOME"), conf)
	ts.Check(err)
	ts.Setenv("SERVICE_URL", "https://"+p.address)
	ts.Setenv("SERVICE_PID", fmt.Sprint(p.cmd.Process.Pid))
	ts.Defer(func() { ts.Check(p.stop()) })
	services.Store(ts.Getenv("WORK")+"/"+args[0], p)
}

// cmdService stops the service of a directory and looks at its log: service
// stop DIR; service log DIR TEXT.
func cmdService(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: service stop DIR | service answers DIR PATH TEXT | [!] service log DIR TEXT")
	}
	v, ok := services.Load(ts.Getenv("WORK") + "/" + args[1])
	if !ok {
		ts.Fatalf("no service runs in %s", args[1])
	}
	p := v.(*serviceProcess)
	switch {
	case args[0] == "stop" && !neg:
		ts.Check(p.stop())
	case args[0] == "answers" && len(args) == 4 && !neg:
		if got, err := p.get(args[2]); err != nil || !strings.Contains(got, args[3]) {
			ts.Fatalf("%s answers %s, %v", args[2], got, err)
		}
	case args[0] == "log" && len(args) == 3:
		if found := bytes.Contains(p.log(), []byte(args[2])); found == neg {
			ts.Fatalf("log of the service:\n%s", p.log())
		}
	default:
		ts.Fatalf("unknown word %s", args[0])
	}
}

// patience bounds every wait for another process.
const patience = 30 * time.Second
