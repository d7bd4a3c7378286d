{{/* What other values decide. By environment, because the image sets some of it so, and the environment wins. */}}
{{- define "ranktower.serviceEnv" -}}
- name: RANKTOWER_RELEASE__REGISTRY
  value: /registry
- name: RANKTOWER_RELEASE__MODEL
  value: {{ .Values.model | quote }}
- name: RANKTOWER_HTTP__HOST
  value: 0.0.0.0
- name: RANKTOWER_HTTP__PORT
  value: "8000"
- name: RANKTOWER_HTTP__DRAIN_DELAY_S
  value: {{ .Values.drain.delaySeconds | quote }}
- name: RANKTOWER_HTTP__DRAIN_TIMEOUT_S
  value: {{ .Values.drain.timeoutSeconds | quote }}
- name: RANKTOWER_AUTH__REQUIRED
  value: {{ .Values.auth.required | quote }}
{{- if .Values.auth.required }}
- name: RANKTOWER_AUTH__KEYS_FILE
  value: /run/secrets/keys/{{ .Values.auth.keysFile }}
{{- end }}
{{- include "ranktower.redisEnv" . }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $.Values.tracing.sampleRatio | quote }}
{{- end }}
{{- end -}}
