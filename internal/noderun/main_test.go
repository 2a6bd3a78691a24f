package noderun

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// The tests of whole runs use a stand-in for the container runtime, unless these
// flags name a real one and an image whose run script executes its arguments.
var (
	realRuntime = flag.String("runtime", "", "absolute path of a container runtime to test with")
	realImage   = flag.String("image", "", "SIF image to test with")
)

const (
	envGocryptfs  = "SEALBATCH_TEST_GOCRYPTFS"
	envSupervisor = "SEALBATCH_TEST_SUPERVISOR"
	envContainer  = "SEALBATCH_TEST_CONTAINER"

	// testUser is an unprivileged uid and gid that nothing else on the machine uses.
	testUser = 2345
)

// gocryptfsPath is the program built from the version that go.mod pins.
var gocryptfsPath string

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == sandbox.ChildArg:
		if sandbox.ChildMain() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(envSupervisor) != "":
		supervisorMain()
	case os.Getenv(envContainer) != "":
		containerMain()
	case filepath.Base(os.Args[0]) == "apptainer":
		runtimeMain(os.Args[1:])
	}
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if fuzzing := flag.Lookup("test.fuzz").Value.String() + flag.Lookup("test.fuzzworker").Value.String(); fuzzing != "false" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "noderun-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if gocryptfsPath = os.Getenv(envGocryptfs); gocryptfsPath == "" {
		gocryptfsPath = filepath.Join(dir, "gocryptfs")
		build := exec.Command("go", "build", "-C", "../../tools/gocryptfs", "-tags", "without_openssl",
			"-o", gocryptfsPath, "github.com/rfjakob/gocryptfs/v2")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build gocryptfs: %v\n%s", err, out)
			return 1
		}
	}
	if os.Geteuid() == 0 {
		return runUnprivileged(dir)
	}
	if os.Getenv(envScripts) == "" {
		here, err := filepath.Abs("../../verify-scripts")
		if err != nil {
			panic(err)
		}
		os.Setenv(envScripts, here)
	}
	return m.Run()
}

// runUnprivileged runs all of it as a user without any privilege: a supervisor
// refuses to be root.
func runUnprivileged(dir string) int {
	// Some machines keep /dev/fuse to root; where people use FUSE it is 0666.
	if err := os.Chmod("/dev/fuse", 0o666); err != nil {
		panic(err)
	}
	home := filepath.Join(dir, "home")
	for _, err := range []error{os.Mkdir(home, 0o700), os.Chown(home, testUser, testUser), os.Chmod(dir, 0o755)} {
		if err != nil {
			panic(err)
		}
	}
	// The test binary itself may lie where only root can read.
	program := filepath.Join(dir, "noderun.test")
	if out, err := exec.Command("cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), program).CombinedOutput(); err != nil {
		panic(string(out))
	}
	var args []string
	flag.Visit(func(f *flag.Flag) {
		if f.Name != "test.testlogfile" && f.Name != "test.coverprofile" && f.Name != "test.gocoverdir" {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	cmd := exec.Command(program, args...)
	cmd.Dir = home
	scripts := filepath.Join(dir, "verify-scripts")
	if err := os.CopyFS(scripts, os.DirFS("../../verify-scripts")); err != nil {
		panic(err)
	}
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home,
		envGocryptfs + "=" + gocryptfsPath, envScripts + "=" + scripts, "GORACE=" + os.Getenv("GORACE"),
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
		Uid: testUser, Gid: testUser, Groups: []uint32{testUser + 1}, // a second one, for a setgid job directory
	}}
	if err := cmd.Run(); err != nil {
		fmt.Println("as an unprivileged user:", err)
		return 1
	}
	return 0
}

// runtimeMain stands in for Apptainer: it takes the flags that a container
// gets, and runs the command in a mount namespace of its own.
func runtimeMain(args []string) {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("apptainer version 1.4.5")
		syscall.Exit(0)
	}
	fs := flag.NewFlagSet("runtime", flag.ExitOnError)
	quiet := fs.Bool("q", false, "")
	must(fs.Parse(args))
	verb := fs.Arg(0)
	run := flag.NewFlagSet(verb, flag.ExitOnError)
	contain, clean := run.Bool("containall", false, ""), run.Bool("cleanenv", false, "")
	noMount, home, pwd := run.String("no-mount", "", ""), run.String("home", "", ""), run.String("pwd", "", "")
	bind := run.String("bind", "", "")
	net, network := run.Bool("net", false, ""), run.String("network", "", "")
	must(run.Parse(fs.Args()[1:]))
	_, homeDir, _ := strings.Cut(*home, ":")
	if !*quiet || !*contain || !*clean || !strings.Contains(*noMount, "bind-paths") || homeDir != container.Home {
		must(fmt.Errorf("not contained: %q", args))
	}
	if *net != (*network == "none") {
		must(fmt.Errorf("network: %q", args))
	}
	if head, err := os.ReadFile(run.Arg(0)); err != nil || string(head) != fakeImage {
		must(fmt.Errorf("image: %q, %v", head, err))
	}
	binds := strings.Split(os.Getenv("APPTAINER_BIND"), ",")
	if *bind != "" {
		binds = append(binds, *bind)
	}
	cmd := exec.Command("/proc/self/exe", run.Args()[1:]...)
	cmd.Env = []string{envContainer + "=" + *pwd + "\n" + strings.Join(binds, "\n"), "HOME=" + homeDir, "PATH=/usr/bin:/bin",
		"NETWORK=" + *network, "GORACE=" + os.Getenv("GORACE")}
	for _, v := range os.Environ() {
		if v, ok := strings.CutPrefix(v, "APPTAINERENV_"); ok {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{18, 21}, // CAP_SYS_CHROOT, CAP_SYS_ADMIN
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	must(cmd.Start())
	go func() { // as the runtimes do
		for range term {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	_ = cmd.Wait()
	ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		syscall.Exit(128 + int(ws.Signal()))
	}
	syscall.Exit(ws.ExitStatus())
}

// containerMain is runtimeMain's child: it makes the container's file system
// from the machine's own programs and what is to be bound, and enters it.
func containerMain() {
	const root = "/mnt"
	pwd, binds, _ := strings.Cut(os.Getenv(envContainer), "\n")
	must(os.Unsetenv(envContainer))
	must(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""))
	must(syscall.Mount("tmpfs", root, "tmpfs", 0, ""))
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc"} {
		if target, err := os.Readlink(dir); err == nil {
			must(os.Symlink(target, root+dir))
		} else {
			must(bindTo(dir, root+dir))
		}
	}
	for _, b := range strings.Split(binds, "\n") {
		from, to, _ := strings.Cut(b, ":")
		must(bindTo(from, root+to))
	}
	must(syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	must(syscall.Chroot(root))
	must(os.Chdir(pwd))
	argv := os.Args[1:]
	path, err := exec.LookPath(argv[0])
	must(err)
	must(syscall.Exec(path, argv, os.Environ()))
}

func bindTo(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, "")
}

// must ends a stand-in process as Apptainer does when it cannot go on.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "FATAL:", err)
		syscall.Exit(255)
	}
}
