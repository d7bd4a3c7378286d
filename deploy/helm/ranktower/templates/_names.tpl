{{- define "ranktower.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ranktower.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "ranktower.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* What never changes of an object, by which others find it. Takes a list: the root, the component. */}}
{{- define "ranktower.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "ranktower.labels" -}}
{{- $root := index . 0 -}}
{{ include "ranktower.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes a list: the root, the values of the image. */}}
{{- define "ranktower.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "ranktower.registryClaim" -}}
{{- .Values.registry.existingClaim | default (printf "%s-registry" (include "ranktower.fullname" .)) -}}
{{- end -}}

{{/* Not empty where the service, and so the jobs, have to do with Redis. */}}
{{- define "ranktower.needsRedis" -}}
{{- $store := .Values.config.store | default dict -}}
{{- $pointer := (.Values.config.release | default dict).pointer | default "file" -}}
{{- if or (eq $pointer "redis") (eq ($store.users | default "local") "redis") (contains "redis" ($store.items | default "local")) -}}
yes
{{- end -}}
{{- end -}}
