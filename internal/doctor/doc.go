// Package doctor tries what jobs need and says what is wrong and how to put it
// right: on the user's machine the configuration, the key service and the
// site, on a compute node all that a job's supervisor does there.
package doctor
