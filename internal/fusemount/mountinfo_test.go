package fusemount

import "testing"

func TestUnescapeMount(t *testing.T) {
	t.Parallel()
	if got := unescapeMount(`/a\040b\134040\012`); got != "/a b\\040\n" {
		t.Errorf("%q", got)
	}
}
