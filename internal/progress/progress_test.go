package progress

import "testing"

type bar struct{ done, total, ended int64 }

func (b *bar) Update(done, total int64) { b.done, b.total = done, total }
func (b *bar) End(ok bool) {
	if ok {
		b.ended++
	}
}

// TestStarter: where nobody looks, reports are taken all the same.
func TestStarter(t *testing.T) {
	t.Parallel()
	none := Starter(nil).Start("nobody looks", 0, 10)
	none.Update(3, 10)
	none.End(true)
	var b bar
	shown := Starter(func(label string, done, total int64) Bar {
		if label != "sealing" || done != 2 || total != 10 {
			t.Errorf("%q: %d of %d", label, done, total)
		}
		return &b
	}).Start("sealing", 2, 10)
	shown.Update(7, 11)
	shown.End(true)
	if b != (bar{7, 11, 1}) {
		t.Errorf("%+v", b)
	}
}
