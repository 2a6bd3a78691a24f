package slurm

import "strings"

// Outlook says what becomes of a job that waits.
type Outlook int

// The outlooks.
const (
	Waits Outlook = iota // it starts by itself, when what it waits for is there
	Held                 // it starts when somebody lets it
	Never                // it does not start as it was submitted
)

// waitReason is a reason of Slurm's for which a job is pending (src/common/job_state_reason.c, and the texts that
// slurmctld puts in their place).
type waitReason struct {
	outlook Outlook
	means   string
}

const (
	heldBySlurm = "Slurm could not start it where it tried to, and holds it: an administrator of the site can say why"
	nodesAway   = "nodes that it needs are down, drained or reserved: it starts when they are back"
	closed      = "its partition starts no jobs at present: it starts when the site opens it again"
)

var waitReasons = map[string]waitReason{
	"Priority":          {Waits, "jobs of higher priority are before it"},
	"Resources":         {Waits, "it starts when enough nodes are free"},
	"Dependency":        {Waits, "the jobs that it depends on have not come to that"},
	"BeginTime":         {Waits, "it has a time before which it does not begin"},
	"Licenses":          {Waits, "it starts when licences are free"},
	"Reservation":       {Waits, "its reservation has not begun"},
	"ReqNodeNotAvail":   {Waits, nodesAway},
	"PartitionDown":     {Waits, closed},
	"PartitionInactive": {Waits, closed},

	"JobHeldUser":                             {Held, "it is held as its submitter wished: scontrol release lets it start"},
	"JobHeldAdmin":                            {Held, "the site holds it: its administrators can say why, and let it start"},
	"launch failed requeued held":             {Held, heldBySlurm},
	"user env retrieval failed requeued held": {Held, heldBySlurm},
	"JobHoldMaxRequeue":                       {Held, heldBySlurm},
	"job requeued in held state":              {Held, "it was stopped and is held: scontrol release lets it start again"},

	"PartitionTimeLimit": {Never, "its time limit is above the partition's: lower --time, or choose another --partition"},
	"PartitionNodeLimit": {Never,
		"its number of nodes is outside of the partition's limits: change --nodes, or choose another --partition"},
	"BadConstraints":           {Never, "the site has no nodes like those that it asks for"},
	"Constraints":              {Never, "the site has no nodes like those that it asks for"},
	"DependencyNeverSatisfied": {Never, "a job that it depends on did not end as --dependency demands"},
	"InvalidAccount":           {Never, "Slurm does not know its --account, or not for this user"},
	"AccountNotAllowed":        {Never, "its --account may not use the partition"},
	"InvalidQOS":               {Never, "Slurm does not know its --qos, or not for this account"},
	"QOSNotAllowed":            {Never, "its --qos may not be used there"},
	"MaxMemPerLimit":           {Never, "it asks for more memory than one node or CPU may have there: lower --mem"},
	"ReservationDeleted":       {Never, "its --reservation was deleted"},
	"ReservationInvalid":       {Never, "its --reservation cannot be used"},
	"DeadLine":                 {Never, "it cannot end before its deadline"},
}

// Waiting returns what becomes of a pending job, and what its reason means; "" where the reason says nothing, or is
// not known here.
func (s Status) Waiting() (Outlook, string) {
	if s.State == "SPECIAL_EXIT" || s.State == "REQUEUE_HOLD" || s.State == "RESV_DEL_HOLD" {
		return Held, "it was stopped and is held: scontrol release lets it start again"
	}
	reason, _, _ := strings.Cut(s.Reason, ",") // "ReqNodeNotAvail, UnavailableNodes:cn2"
	if r, ok := waitReasons[reason]; ok {
		return r.outlook, r.means
	}
	switch {
	case strings.HasPrefix(reason, "Nodes required for job are DOWN"):
		return Waits, nodesAway
	// "uid 7 not in group permitted to use this partition (p). groups allowed: g", "Job's account not permitted ..."
	case strings.Contains(reason, "not permitted to use this partition"), strings.Contains(reason, "not in group permitted"):
		return Never, "its user, account or quality of service may not use the partition"
	}
	return limit(reason)
}

// limit reads the reasons of limits that accounting sets on associations and qualities of service: those of one job
// stay, those of everything that somebody runs at a time pass.
func limit(reason string) (Outlook, string) {
	whose := ""
	switch {
	case strings.HasPrefix(reason, "Assoc"):
		whose = "account"
	case strings.HasPrefix(reason, "QOS"):
		whose = "quality of service"
	case strings.HasPrefix(reason, "Max") && strings.HasSuffix(strings.TrimSuffix(reason, "Limit"), "PerAccount"):
		return Waits, "the account's jobs have all that they may have at a time"
	default:
		return Waits, ""
	}
	switch short := strings.TrimSuffix(reason, "Limit"); {
	case strings.HasSuffix(short, "PerJob"), strings.HasSuffix(short, "PerNode"):
		return Never, "it asks for more than one job may have by the limits of its " + whose
	case strings.HasPrefix(short, "QOSMin"):
		return Never, "it asks for less than a job must have by its " + whose
	case strings.HasSuffix(short, "Minutes") && strings.Contains(short, "Grp"):
		return Waits, "the budget of its " + whose + " is used up: it starts when there is more"
	}
	return Waits, "the jobs of its " + whose + " have all that they may have at a time"
}
