package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/doctor"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// serverChecks are what serve --check looks at, beside the configuration itself.
var serverChecks = []func(*config.Server, doctor.Report){
	checkAccounts, checkMasterKey, checkRecords, checkKeys, checkEvidence, checkFiles,
	func(c *config.Server, report doctor.Report) {
		checkCertificate(setup.Certificates{TLSCert: c.TLSCert, TLSKey: c.TLSKey}, report)
	},
}

// checkServer reads what the key service would read, and starts nothing. A
// running service is not disturbed by it.
func checkServer(a *app, conf string) error {
	c, err := loadServer(conf)
	if err != nil {
		return err
	}
	return runChecks(a, func(report doctor.Report) {
		report(doctor.Finding{What: "configuration", Detail: c.Path})
		for _, check := range serverChecks {
			check(c, report)
		}
	})
}

// aboveSays is the hint at the end of checks.
const aboveSays = "each NO has its fix below it"

// failed is doctor.Failed with a way out, whatever err is.
func failed(what string, err error) doctor.Finding {
	return doctor.Failed(what, forPeople(command{name: "serve"}, fault.New(fault.Config, err, "")))
}

// runChecks prints what is found, and returns an error if anything is bad.
func runChecks(a *app, checks func(doctor.Report)) error {
	bad := 0
	checks(func(f doctor.Finding) {
		if f.Bad {
			bad++
		}
		printFinding(a.stdout, f)
	})
	switch {
	case bad == 1:
		return fault.New(fault.Config, errors.New("1 thing is wrong (NO above)"), aboveSays)
	case bad > 1:
		return fault.New(fault.Config, fmt.Errorf("%d things are wrong (NO above)", bad), aboveSays)
	}
	return nil
}

func checkAccounts(c *config.Server, report doctor.Report) {
	n, keys, problems := keyserver.CheckAccounts(c.AllowedSigners)
	for _, err := range problems {
		report(failed("accounts", err))
	}
	switch {
	case len(problems) > 0:
	case n == 0:
		report(doctor.Finding{What: "accounts", Warn: true, Detail: c.AllowedSigners + " enrols nobody"})
	default:
		report(doctor.Finding{What: "accounts", Detail: fmt.Sprintf("%d, with %d keys", n, keys)})
	}
}

func checkMasterKey(c *config.Server, report doctor.Report) {
	k, err := boltstore.LoadMasterKey(c.MasterKeyFile)
	clear(k[:])
	if err != nil {
		report(failed("master key", damagedStore(masterKey(err))))
		return
	}
	report(doctor.Finding{What: "master key", Detail: c.MasterKeyFile})
}

// checkKeys looks at the volumes' keys, which must be there, where what is
// destroyed is overwritten.
func checkKeys(c *config.Server, report doctor.Report) {
	if c.KeyStore.Type != "slots" {
		return
	}
	path, err := slotstore.Path(c.DataDir, c.KeyStore.Parameters)
	if err == nil {
		err = checkSlots(c, path)
	}
	if err != nil {
		report(failed("keys", damagedStore(err)))
		return
	}
	if fs, ok := slotstore.InPlace(path); !ok {
		report(doctor.Finding{What: "keys", Warn: true,
			Detail: fmt.Sprintf("%s lies on %s, which does not overwrite in place: a key that was destroyed stays on the disk", path, fs),
			Fix:    "stop the service, move the file to ext4 or XFS without snapshots, and name it in [key-store] file"})
		return
	}
	report(doctor.Finding{What: "keys", Detail: path})
}

func checkSlots(c *config.Server, path string) error {
	f, err := trusted.Open(path, trusted.Secret)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, store.ErrMissing)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	k, err := boltstore.LoadMasterKey(c.MasterKeyFile)
	if err != nil {
		return nil // checkMasterKey tells
	}
	defer clear(k[:])
	if err := slotstore.CheckHeader(f, k.Derive); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkRecords looks at the store and at the audit log, which must agree. Those of a service that runs change
// all the time: of them it sees only that they are there.
func checkRecords(c *config.Server, report doctor.Report) {
	path := filepath.Join(c.DataDir, boltstore.FileName)
	if err := missing(path); err != nil {
		report(failed("store", err))
		return
	}
	k, err := boltstore.LoadMasterKey(c.MasterKeyFile)
	if err != nil {
		return // checkMasterKey tells
	}
	defer clear(k[:])
	follows := func(io.Reader) error { return nil }
	switch st, err := boltstore.Read(path, k); {
	case errors.Is(err, boltstore.ErrInUse):
		report(doctor.Finding{What: "store", Detail: path + ", on which a key service runs"})
	case err != nil:
		report(failed("store", damagedStore(err)))
		return
	default:
		follows, err = keyserver.LogCheck(st)
		if err := errors.Join(err, st.Close()); err != nil {
			report(failed("store", damagedStore(err)))
			return
		}
		report(doctor.Finding{What: "store", Detail: path})
	}
	if err := checkLog(c.Audit, follows); err != nil {
		report(failed("audit log", notFresh(err)))
		return
	}
	report(doctor.Finding{What: "audit log", Detail: c.Audit})
}

func checkLog(path string, follows func(io.Reader) error) error {
	if err := missing(path); err != nil {
		return err
	}
	f, err := trusted.Open(path, trusted.Public)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := follows(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkFiles looks at what the other checks do not open.
func checkFiles(c *config.Server, report doctor.Report) {
	bad := strayFiles(c)
	for _, err := range bad {
		report(failed("files", err))
	}
	if len(bad) == 0 {
		report(doctor.Finding{What: "files", Detail: c.DataDir})
	}
}

// strayFiles returns what others can get at, of the files that the service opens
// late or not at all: those in its data directory, and the authority's key if it
// was left beside the configuration or the certificate.
func strayFiles(c *config.Server) []error {
	errs := []error{trusted.CheckDir(c.DataDir)}
	held := map[string]trusted.Kind{
		filepath.Join(c.DataDir, boltstore.FileName): trusted.Secret,
		filepath.Join(c.DataDir, slotstore.FileName): trusted.Secret,
	}
	for _, near := range []string{c.Path, c.TLSCert} {
		held[filepath.Join(filepath.Dir(near), "ca.key")] = trusted.Secret
	}
	held[c.Audit] = trusted.Public
	if names, err := os.ReadDir(c.DataDir); err == nil {
		for _, n := range names {
			path := filepath.Join(c.DataDir, n.Name())
			held[path] = max(held[path], trusted.Public)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(held)) {
		errs = append(errs, unsafe(trusted.Check(path, held[path])))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// checkEvidence looks at what nodes may show, and whether that can be enough.
func checkEvidence(c *config.Server, report doctor.Report) {
	if _, err := attestors.Configure(c); err != nil {
		report(failed("evidence", err))
		return
	}
	tier, err := manifest.ParseTier(c.MinTier)
	if err != nil {
		report(failed("evidence", err))
		return
	}
	if why := nothingReleased(c); why != "" {
		report(doctor.Finding{What: "evidence", Warn: true, Detail: why, Fix: enrolOrLower})
		return
	}
	report(doctor.Finding{What: "evidence", Detail: fmt.Sprintf("%d clusters; at least tier %s", len(c.Clusters), tier)})
}

// enrolOrLower is what helps when nothing is released.
const enrolOrLower = "append the enrol.conf of a verifier (sealbatch verifier --init), " +
	"or set [limits] min-tier = C, for one-time tokens"

// nothingReleased says why the service would release nothing to anybody; "" if it
// would.
func nothingReleased(c *config.Server) string {
	if c.MinTier == manifest.TierC.String() || len(c.Clusters) > 0 || len(c.Attestors) > 0 {
		return ""
	}
	return fmt.Sprintf("nothing is released: min-tier is %s, and no cluster's verifier is enrolled", c.MinTier)
}

// renewalTime is how long before its end a certificate should be renewed.
const renewalTime = 30 * 24 * time.Hour

func checkCertificate(files setup.Certificates, report doctor.Report) {
	until, err := files.Check(time.Now())
	switch {
	case err != nil:
		report(failed("certificate", err))
	case time.Until(until) < renewalTime:
		report(doctor.Finding{What: "certificate", Warn: true, Detail: "it ends at " + until.Local().Format(time.DateTime),
			Fix: "renew it: docs/key-service.md has the command"})
	default:
		report(doctor.Finding{What: "certificate", Detail: "good until " + until.Local().Format(time.DateTime)})
	}
}

// checkVerifier reads what the verifier would read, and starts nothing.
func checkVerifier(a *app, conf string) error {
	c, err := config.LoadVerifier(conf)
	if err != nil {
		return err
	}
	return runChecks(a, func(report doctor.Report) {
		found := func(what, detail string, err error) {
			if err != nil {
				report(failed(what, err))
				return
			}
			report(doctor.Finding{What: what, Detail: detail})
		}
		found("configuration", c.Path, nil)
		found("user", c.MungeUser, checkMungeUser(c.MungeUser))
		key, err := ed25519PrivateKey(c.SigningKey)
		clear(key)
		found("signing key", c.SigningKey, err)
		nodes, err := tableOfNodes(c)
		found("nodes", fmt.Sprint(len(nodes)), err)
		if c.ServiceURL != "" {
			_, err := serviceCA(c)
			found("key service", c.ServiceURL, err)
		}
		checkCertificate(setup.Certificates{TLSCert: c.TLSCert, TLSKey: c.TLSKey}, report)
	})
}
