package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// endFlags are the flags of policy revoke and policy delete.
type endFlags struct {
	yes        bool // do not ask
	superseded bool // the versions of a name that newer ones superseded
}

func (e *endFlags) add(f *ui.Flags) {
	f.Bool(&e.yes, "do not ask: with revoke and delete, and with set, add, remove and renew where a policy counts no more",
		[]string{"y", "yes"}, ui.Whole)
	f.Bool(&e.superseded, "with delete: the older versions of the name, except for those that were published with --pin-version",
		[]string{"superseded"}, ui.Whole)
}

// stillOpens is what no key service can take back.
const stillOpens = "The sealed file itself stays, and opens to the age identities that it was sealed to (sealbatch open)."

// revoke ends the release of a volume's key for good.
func (c *client) revoke(ctx context.Context, s keyapi.SecretInfo, o policyOptions) (keyapi.SecretInfo, error) {
	waiting, err := c.whatWaits(ctx, s.VolumeID)
	if err != nil {
		return s, err
	}
	err = c.a.confirmFinal(ctx, o.yes, fmt.Sprintf(
		"The key service destroys its copy of the key of %s (%s). No job gets it ever again.\n%s%s\n",
		called(s.Entry()), s.VolumeID, waiting, stillOpens))
	if err != nil {
		return s, err
	}
	return c.keys.Revoke(ctx, s.VolumeID)
}

// remove has the key service forget volumes: the one that ref names, or the
// superseded versions of that name.
func (c *client) remove(ctx context.Context, ref string, e endFlags) error {
	doomed, err := c.doomed(ctx, ref, e.superseded)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, s := range doomed {
		fmt.Fprintf(&list, "  %s  %s\n", s.VolumeID, called(s))
		if s.Revoked {
			continue
		}
		waiting, err := c.whatWaits(ctx, s.VolumeID)
		if err != nil {
			return err
		}
		list.WriteString(waiting)
	}
	err = c.a.confirmFinal(ctx, e.yes, fmt.Sprintf("The key service destroys its copies of these keys, and forgets the volumes:\n%s"+
		"No job gets them ever again, and they cannot be deposited again.\n%s\n", &list, stillOpens))
	if err != nil {
		return err
	}
	for _, s := range doomed {
		if err := c.keys.Delete(ctx, s.VolumeID); err != nil {
			return fmt.Errorf("delete volume %s: %w", s.VolumeID, err)
		}
		fmt.Fprintln(c.a.stdout, s.VolumeID)
	}
	return nil
}

func (c *client) doomed(ctx context.Context, ref string, superseded bool) ([]keyapi.SecretEntry, error) {
	if !superseded {
		s, err := c.findSecret(ctx, ref)
		return []keyapi.SecretEntry{s.Entry()}, err
	}
	var found []keyapi.SecretEntry
	for s, err := range c.keys.Secrets(ctx) {
		if err != nil {
			return nil, err
		}
		if isCalled(s, ref) && s.SupersededBy != "" && (!s.PinVersion || s.Revoked) {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return nil, fault.New(fault.Usage, fmt.Errorf("you have no superseded version of %.80q at the key service", ref),
			"sealbatch policy list shows them")
	}
	return found, nil
}
