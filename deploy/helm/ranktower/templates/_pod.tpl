{{/* Parts that the service's pods and the jobs' have in common. */}}

{{- define "ranktower.podSecurity" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "ranktower.serviceAccountName" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # A registry of many files is not walked through at every start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "ranktower.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "ranktower.redisEnv" -}}
{{- if include "ranktower.needsRedis" . -}}
{{- with .Values.redis }}
- name: RANKTOWER_STORE__REDIS_CLUSTER
  value: {{ .cluster | quote }}
- name: RANKTOWER_STORE__REDIS_URL
  {{- if .urlKey }}
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .urlKey }}
  {{- else }}
  value: {{ .url | quote }}
  {{- end }}
{{- if and .existingSecret (not .urlKey) }}
- name: RANKTOWER_STORE__REDIS_PASSWORD_FILE
  value: /run/secrets/redis/{{ .passwordKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ranktower.redisMount" -}}
{{- if and (include "ranktower.needsRedis" .) .Values.redis.existingSecret (not .Values.redis.urlKey) -}}
- name: redis-secret
  mountPath: /run/secrets/redis
  readOnly: true
{{- end }}
{{- end -}}

{{- define "ranktower.redisVolume" -}}
{{- if include "ranktower.redisMount" . -}}
- name: redis-secret
  secret:
    secretName: {{ .Values.redis.existingSecret }}
    items:
      - key: {{ .Values.redis.passwordKey }}
        path: {{ .Values.redis.passwordKey }}
{{- end }}
{{- end -}}
