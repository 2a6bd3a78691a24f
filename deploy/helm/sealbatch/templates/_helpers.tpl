{{- define "sealbatch.fullname" -}}
{{- if eq .Release.Name .Chart.Name -}}
{{ .Chart.Name }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sealbatch.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sealbatch.labels" -}}
{{ include "sealbatch.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sealbatch.claim" -}}
{{ .Values.storage.existingClaim | default (include "sealbatch.fullname" .) }}
{{- end }}

{{/* server.conf. A cluster's section is what `verifier --init` wrote, with its authority's file beside it. */}}
{{- define "sealbatch.config" -}}
[server]
name = {{ required "name: the key service's name is needed (--set name=keys.example.org)" .Values.name }}
listen = 0.0.0.0:8443
data-dir = /var/lib/sealbatch/data
master-key-file = /etc/sealbatch-master/master.key
allowed-signers = accounts
tls-cert = /etc/sealbatch-tls/tls.crt
tls-key = /etc/sealbatch-tls/tls.key
# The group that Kubernetes gives the volumes to (fsGroup).
group = {{ .Values.user }}
{{- range $name, $cluster := .Values.clusters }}

{{ regexReplaceAll "(?m)^verifier-ca[ \t]*=.*$" $cluster.enrol (printf "verifier-ca = verifier-%s.crt" $name) | trim }}
{{- end }}
{{- with .Values.config }}

{{ . | trim }}
{{- end }}
{{ end }}

{{/* The pod: of the service, and of the Job that makes its store. .args is the command, .serves whether it answers. */}}
{{- define "sealbatch.pod" -}}
{{- $v := .root.Values -}}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: {{ .restart }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $v.user }}
  runAsGroup: {{ $v.user }}
  fsGroup: {{ $v.user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: sealbatch
    image: {{ $v.image.repository }}{{ with $v.image.digest }}@{{ . }}{{ else }}:{{ $v.image.tag }}{{ end }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    command: ["/usr/local/bin/sealbatch"]
    args: {{ toJson .args }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    {{- if .serves }}
    ports:
      - name: keys
        containerPort: 8443
    # /healthz answers while the process does; /readyz not, when something must be looked at. The service goes on
    # refusing with reasons then, so its address stays (publishNotReadyAddresses).
    startupProbe:
      httpGet: {path: /healthz, port: keys, scheme: HTTPS}
      periodSeconds: 2
      failureThreshold: 150
    livenessProbe:
      httpGet: {path: /healthz, port: keys, scheme: HTTPS}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: keys, scheme: HTTPS}
      periodSeconds: 10
      timeoutSeconds: 5
    {{- end }}
    resources:
      {{- toYaml $v.resources | nindent 6 }}
    volumeMounts:
      - {name: data, mountPath: /var/lib/sealbatch}
      - {name: config, mountPath: /etc/sealbatch, readOnly: true}
      - {name: master, mountPath: /etc/sealbatch-master, readOnly: true}
      - {name: tls, mountPath: /etc/sealbatch-tls, readOnly: true}
volumes:
  - name: data
    persistentVolumeClaim:
      claimName: {{ include "sealbatch.claim" .root }}
  # Projected, not a plain ConfigMap: that one's directory anybody may write, as its mode says, and the service then
  # believes nothing in it.
  - name: config
    projected:
      defaultMode: 0444
      sources:
        - configMap:
            name: {{ include "sealbatch.fullname" .root }}
  - name: master
    secret:
      secretName: {{ $v.masterKeySecret }}
      defaultMode: 0400
      items:
        - {key: master.key, path: master.key}
  - name: tls
    secret:
      secretName: {{ $v.tlsSecret }}
      defaultMode: 0400
      items:
        - {key: tls.crt, path: tls.crt}
        - {key: tls.key, path: tls.key}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
