package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// serviceProcess is a running `sealbatch serve`.
type serviceProcess struct {
	cmd     *exec.Cmd
	dir     string // of its configuration and authority
	address string // where it listens

	mu     sync.Mutex
	stderr bytes.Buffer
	ended  chan error
	once   sync.Once
	result error
}

// services are the running ones, by directory.
var services sync.Map

var listenRE = regexp.MustCompile(`listen=(127\.0\.0\.1:[0-9]+)`)

// startService starts the key service on a free port. Another process may take
// the port first; then the next one is tried.
func startService(home, conf string) (p *serviceProcess, err error) {
	for range 5 {
		if err := freePort(conf); err != nil {
			return nil, err
		}
		if p, err = tryService(home, conf); err == nil || !strings.Contains(err.Error(), "address already in use") {
			return p, err
		}
	}
	return nil, err
}

var listenLineRE = regexp.MustCompile(`(?m)^listen = .*$`)

// freePort writes a port that is free now into a configuration.
func freePort(conf string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	b, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	return os.WriteFile(conf, listenLineRE.ReplaceAll(b, []byte("listen = "+l.Addr().String())), 0o600)
}

// tryService starts the key service and waits until it says where it listens.
func tryService(home, conf string) (*serviceProcess, error) {
	p := &serviceProcess{dir: filepath.Dir(conf), cmd: exec.Command("sealbatch", "serve", "--config", conf), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "HOME="+home)
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			p.mu.Lock()
			fmt.Fprintln(&p.stderr, lines.Text())
			p.mu.Unlock()
			if m := listenRE.FindStringSubmatch(lines.Text()); m != nil {
				ready <- m[1]
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	select {
	case p.address = <-ready:
		return p, nil
	case err := <-p.ended:
		return nil, fmt.Errorf("serve ended: %w\n%s", err, p.log())
	case <-time.After(patience):
		return nil, errors.Join(fmt.Errorf("serve did not start\n%s", p.log()), p.cmd.Process.Kill())
	}
}

// log returns what it has written so far.
func (p *serviceProcess) log() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.stderr.Bytes())
}

// get asks the service without a signature, and returns status and body.
func (p *serviceProcess) get(path string) (string, error) {
	ca, err := os.ReadFile(filepath.Join(p.dir, "ca.crt"))
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}, DisableKeepAlives: true}}
	res, err := c.Get("https://" + p.address + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s", res.StatusCode, b), err
}

// stop ends the service as systemd would; it must end by itself and with 0.
func (p *serviceProcess) stop() error {
	p.once.Do(func() {
		if p.result = p.cmd.Process.Signal(syscall.SIGTERM); p.result != nil {
			return
		}
		select {
		case p.result = <-p.ended:
			if p.result != nil {
				p.result = fmt.Errorf("serve: %w\n%s", p.result, p.log())
			}
		case <-time.After(patience):
			p.result = errors.Join(errors.New("serve did not stop"), p.cmd.Process.Kill())
		}
	})
	return p.result
}
