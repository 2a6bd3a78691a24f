package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/munge"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/slurm"
)

// logHint is what nodes are told of errors whose details are for the verifier's log.
const logHint = "the cluster's administrator finds the reason in the verifier's log"

// deny refuses evidence.
func deny(format string, args ...any) *service.Refusal {
	return service.Refuse(keyapi.CodeAttestation, format, args...)
}

// unavailable returns the refusal of a check that could not be made.
func unavailable(err error, what string) *service.Refusal {
	return service.Refuse(keyapi.CodeUnavailable, "%s", what).WithCause(err).WithHint(logHint)
}

// check makes every check there is, cheap ones first, and returns the voucher
// to be signed. Every error is a *service.Refusal.
func (v *Verifier) check(ctx context.Context, q keyapi.VouchRequest) (keyapi.Voucher, error) {
	if err := v.checkClaim(q); err != nil {
		return keyapi.Voucher{}, err
	}
	m, err := v.checkCredential(ctx, q)
	if err != nil {
		return keyapi.Voucher{}, err
	}
	j, err := v.checkJob(ctx, q.Claim, m.UID)
	if err != nil {
		return keyapi.Voucher{}, err
	}
	u, err := v.config.LookupUser(ctx, m.UID)
	if err != nil {
		return keyapi.Voucher{}, unavailable(err, fmt.Sprintf("the verifier cannot look up uid %d", m.UID))
	}
	digest := keyapi.ClaimDigest(q.Service, q.Claim)
	return keyapi.Voucher{
		Service: q.Service, Claim: digest[:],
		UID: int64(m.UID), User: u.Name, Groups: u.Groups, Node: q.Claim.Node,
		Job:     manifest.Job{Cluster: v.config.Cluster, ID: j.JobID, ArrayTask: j.ArrayTask, Restart: j.Restart},
		Account: j.Account, Partition: j.Partition, Issued: v.config.Now().UTC(),
	}, nil
}

func (v *Verifier) checkClaim(q keyapi.VouchRequest) error {
	if err := q.Claim.Validate(); err != nil {
		return service.Refuse(keyapi.CodeBadRequest, "the claim is not valid").WithCause(err)
	}
	if q.Service == "" || len(q.Service) > 1024 {
		return service.Refuse(keyapi.CodeBadRequest, "the request names no key service")
	}
	if q.Claim.Job.Cluster != v.config.Cluster {
		return deny("this verifier vouches for cluster %s, not %.80s", v.config.Cluster, q.Claim.Job.Cluster)
	}
	if _, ok := v.config.Nodes[q.Claim.Node]; !ok {
		return deny("node %.255s is not in the verifier's table of nodes", q.Claim.Node).
			WithHint("the cluster's administrator adds it to the verifier's nodes-file")
	}
	return nil
}

// checkCredential has MUNGE decode the credential and compares all that it
// says.
func (v *Verifier) checkCredential(ctx context.Context, q keyapi.VouchRequest) (munge.Credential, error) {
	m, err := v.config.Munge.Decode(ctx, q.Credential)
	if errors.Is(err, munge.ErrRefused) {
		// Which of its rules MUNGE refuses by is no secret; clocks that differ are the usual one.
		why := strings.TrimPrefix(err.Error(), munge.ErrRefused.Error())
		return m, deny("MUNGE refuses the credential%s", why).
			WithHint("credentials are good for a minute, once, for the verifier's user: compare the node's clock with the verifier's")
	}
	if err != nil {
		return m, unavailable(err, "the verifier cannot check MUNGE credentials")
	}
	want := v.config.Nodes[q.Claim.Node]
	switch {
	case m.RestrictUID != int64(v.uid):
		return m, deny("the credential is not restricted to the verifier's user")
	case m.TTL <= 0 || m.TTL > munge.TTL:
		return m, deny("the credential lives %s, longer than %s", m.TTL, munge.TTL)
	case m.UID == 0:
		return m, deny("the credential was made by root").WithHint("jobs run as their users; root gets no key")
	case !bytes.Equal(m.Payload, keyapi.MungePayload(q.Service, q.Claim)):
		return m, deny("the credential covers another claim")
	case !usable(m.Host):
		return m, deny("MUNGE calls the node %s, which every host may call itself", m.Host).
			WithHint("the cluster's administrator sets munged's --origin on the node")
	case m.Host != want:
		return m, deny("the credential was made at %s, but node %s is %s", m.Host, q.Claim.Node, want)
	}
	return m, nil
}

// checkJob asks slurmctld whether uid's job runs on the claimed node.
func (v *Verifier) checkJob(ctx context.Context, c keyapi.Claim, uid uint32) (slurm.JobInfo, error) {
	j, err := v.config.Squeue.Job(ctx, c.Job.ID)
	if errors.Is(err, slurm.ErrNoJob) {
		return j, deny("Slurm does not know job %d", c.Job.ID).
			WithHint("if Slurm hides jobs from other users (PrivateData), the verifier's user needs operator rights")
	}
	if err != nil {
		return j, unavailable(err, "the verifier cannot ask Slurm")
	}
	switch {
	case j.State != "RUNNING":
		return j, deny("job %d is %s, not running", c.Job.ID, j.State)
	case j.UID != uid:
		return j, deny("job %d is not of the user who made the credential", c.Job.ID)
	case !j.Nodes.Contains(c.Node):
		return j, deny("job %d does not run on node %s", c.Job.ID, c.Node)
	case j.ArrayTask != c.Job.ArrayTask:
		return j, deny("job %d is array task %d, not %d", c.Job.ID, j.ArrayTask, c.Job.ArrayTask)
	case j.Restart != c.Job.Restart:
		return j, deny("job %d was restarted %d times, not %d", c.Job.ID, j.Restart, c.Job.Restart)
	}
	return j, nil
}
